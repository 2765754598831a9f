"""`q3edge zoo`: the Qwen3 family, and what of it fits."""

from __future__ import annotations

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import json_option, number_option
from q3edge.defaults import MIN_TOKENS_PER_SECOND


@click.command(short_help="List the Qwen3 models, and which fit this machine.")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--ram", metavar="SIZE", help="Memory for a model, such as 8GB (default: what is available here).")
@click.option("--disk", metavar="SIZE", help="Disk for a finished model (default: what is free here).")
@number_option("--min-tokens-per-second", "Slower ones do not fit.", default=MIN_TOKENS_PER_SECOND, metavar="X")
@json_option
def zoo(name: str | None, ram: str | None, disk: str | None, min_tokens_per_second: float, as_json: bool) -> None:
    """Show the Qwen3 models and what each would take on this machine: before any download, without a network.

    With NAME, such as 4b-instruct-2507, a page of one model with every format. `build`, `quantize`, `inspect` and the
    others that take a checkpoint take these names too.
    """
    from q3edge.cli.tables.zoo import zoo_page, zoo_table

    found = q3edge.zoo(name, ram=ram, disk=disk, min_tokens_per_second=min_tokens_per_second)
    if as_json:
        emit_json(found.to_json())
    else:
        show(zoo_table(found) if name is None else zoo_page(found))
