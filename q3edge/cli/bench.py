"""`q3edge bench`: how fast an ONNX artifact is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json
from q3edge.cli.options.common import FOLDER, CommaSeparated, json_option, number, threads_option
from q3edge.defaults import NEW, PROMPT, REPEATS


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--prompt", type=number("prompt"), default=PROMPT, show_default=True, metavar="N", help="Prefilled tokens."
)
@click.option("--new", type=number("new"), default=NEW, show_default=True, metavar="N", help="Tokens to decode.")
@click.option(
    "--depth",
    "depths",
    type=CommaSeparated(int, "0,512,4096"),
    metavar="N,N",
    help="Tokens of context before them (0,512,4096).",
)
@click.option(
    "--repeats", type=number("repeats"), default=REPEATS, show_default=True, metavar="N", help="Processes to time."
)
@threads_option
@json_option
def bench(folder: Path, as_json: bool, **options: Any) -> None:
    """Measure the ONNX model in DIR: tokens per second, time to the first token, memory.

    Each repeat is a process of its own. Medians, with the smallest and largest value in brackets. Close other
    programs first.
    """
    from q3edge.cli.tables.tables import bench_table

    result = q3edge.bench(folder, **options)
    if as_json:
        emit_json(result.to_json())
    else:
        click.echo(bench_table(result))
