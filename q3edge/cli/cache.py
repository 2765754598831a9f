"""`q3edge cache`: what is kept between runs, and its removal."""

from __future__ import annotations

from dataclasses import asdict

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import json_option
from q3edge.storage.kept_folder import KINDS, kept_root
from q3edge.terminal import say

_ALL = "all"


@click.command(short_help="List or remove what is kept between runs.")
@click.option(
    "--clear",
    type=click.Choice([*KINDS, _ALL]),
    is_flag=False,
    flag_value=_ALL,
    metavar="[KIND]",
    help=f"Remove what is kept of KIND ({', '.join(KINDS)}), or of all; it is made again when it is needed.",
)
@json_option
def cache(clear: str | None, as_json: bool) -> None:
    """List what is kept between runs: packed weights, experts on the disk, evaluations, and which files are verified.

    All of it can be made again: it saves time. It lies in $Q3EDGE_CACHE, else in $XDG_CACHE_HOME/q3edge, else in
    ~/.cache/q3edge. Programs that use an entry go on when it is removed.
    """
    from q3edge.cli.tables.machine import cache_table
    from q3edge.plain_line import counted

    kind = None if clear in (None, _ALL) else clear
    entries = q3edge.list_cache() if clear is None else q3edge.clear_cache(kind)
    size = sum(entry.size for entry in entries)
    if as_json:
        listed = [asdict(entry) | {"path": str(entry.path)} for entry in entries]
        emit_json({"folder": str(kept_root()), "removed": clear is not None, "bytes": size, "entries": listed})
        return
    if entries:
        show(cache_table(entries))
    if clear is not None:
        say(f"removed {counted(len(entries), 'entry', 'entries')} ({size / 1e6:.1f} MB) from {kept_root()}")
    elif not entries:
        say(f"nothing is kept in {kept_root()}")
