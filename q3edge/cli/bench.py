"""`q3edge bench`: speed of an ONNX artifact on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import (
    MODEL_FOLDER,
    CommaSeparated,
    json_option,
    kernels_option,
    number_option,
    offload_option,
    threads_option,
)
from q3edge.defaults import BENCH_DEPTHS, BENCH_NEW, BENCH_PROMPT, BENCH_REPEATS

_DEPTHS = ",".join(map(str, BENCH_DEPTHS))


@click.command(short_help="Measure its speed and memory on this machine.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@number_option("--prompt", "Prefilled tokens.", BENCH_PROMPT)
@number_option("--new", "Tokens to decode.", BENCH_NEW)
@click.option(
    "--depth",
    "depths",
    type=CommaSeparated(int, _DEPTHS),
    metavar="N,N",
    help=f"Tokens of context before them ({_DEPTHS}).",
)
@number_option("--repeats", "Processes to time.", BENCH_REPEATS)
@offload_option
@threads_option
@kernels_option
@json_option
def bench(folder: Path, as_json: bool, **options: Any) -> None:
    """Measure the ONNX model in DIR: tokens per second, time to the first token, memory.

    DIR is a folder or the id of a model on the hub.

    Each repeat is a process of its own. Medians, with the smallest and largest value in brackets. Close other
    programs first.
    """
    from q3edge.cli.tables.tables import bench_table

    result = q3edge.bench(folder, **options)
    if as_json:
        emit_json(result.to_json())
    else:
        show(bench_table(result))
