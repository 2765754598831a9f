"""`q3edge pull`: download a finished model from the hub."""

from __future__ import annotations

from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json
from q3edge.cli.options.common import FOLDER, json_option, overwrite_option
from q3edge.plain_line import typed
from q3edge.terminal import say


@click.command(short_help="Download a finished model from the hub.")
@click.argument("repository", metavar="ORG/NAME")
@click.option("-o", "--output", type=FOLDER, metavar="DIR", help="Folder for a copy (default: the hub's cache alone).")
@overwrite_option
@json_option
def pull(repository: str, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Download the ONNX model ORG/NAME from the hub, and check it.

    It lies in the hub's cache then, where `run ORG/NAME` finds it. The same command goes on where a stopped one was.
    """
    folder = q3edge.pull(repository, output, overwrite=overwrite)
    if as_json:
        emit_json({"repository": repository, "folder": str(folder)})
    else:
        say(f'{repository} is in {folder}; try: q3edge run {typed(repository if output is None else output)} "Hello"')
