"""`q3edge demo`: the whole flow on the embedded model, offline."""

from __future__ import annotations

from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json, say
from q3edge.cli.options.common import FOLDER, json_option
from q3edge.defaults import DEMO_FOLDER


@click.command()
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    default=DEMO_FOLDER,
    show_default=True,
    metavar="DIR",
    help="Folder for the models; those of an earlier demo are replaced.",
)
@json_option
def demo(output: Path, as_json: bool) -> None:
    """Quantize, export, validate and run a small embedded Qwen3 as float, int8, int4 and int2.

    Needs no network. The table shows size and accuracy of each; int2 shows the damage of too few bits.
    """
    from q3edge.cli.tables.tables import demo_table

    result = q3edge.demo(output)
    if as_json:
        emit_json(result.to_json())
        return
    click.echo(demo_table(result))
    say(f'\nTry one yourself:  q3edge run {output / "int4"} "What is 12 + 30?"')
