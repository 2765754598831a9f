"""`q3edge sweep`: build, measurement and report of many formats of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.calibration import text_options
from q3edge.cli.options.common import (
    MODEL,
    CommaSeparated,
    adapter_option,
    json_option,
    number_option,
    output_option,
    scheduler_option,
)
from q3edge.cli.options.measuring import gate_options, measuring_options, speed_option, thinking_budget_option
from q3edge.cli.options.recipe import method_option
from q3edge.errors import ValidationError
from q3edge.terminal import say


@click.command(short_help="Build and measure a model in many formats.")
@click.argument("model", type=MODEL)
@adapter_option
@output_option
@click.option(
    "--formats",
    type=CommaSeparated(str, "int8,int4"),
    default=(),
    metavar="F,F",
    help="int8, int4-mixed, int4, int4-fast or int2 (with -gN, -sym, -asym: int4-g64-sym), int8-dynamic, float; and "
    "as baselines torch-int8, nf4, fp4, bnb-int8, optimum-int8.",
)
@click.option(
    "--target-bpw",
    type=CommaSeparated(float, "3.5,4,4.5"),
    default=(),
    metavar="B,B",
    help="Budgets in bits per weight: 3.5,4,4.5.",
)
@click.option(
    "--experts-per-token",
    type=CommaSeparated(int, "8,6"),
    default=(),
    metavar="K,K",
    help="Build each format with so many experts a token: 8,6,4 (default: as many as the model was trained with).",
)
@method_option
@text_options
@number_option("--jobs", "Models built at a time, each with its share of the threads and memory of its own.", 1)
@gate_options
@speed_option
@measuring_options
@thinking_budget_option
@scheduler_option
@json_option
def sweep(model: str, output: Path, as_json: bool, **options: Any) -> None:
    """Build MODEL in many formats below DIR, measure each, and write DIR/report.html, .json and .md.

    A stopped sweep is continued by the same command; finished formats are not built again. A format that fails is
    listed with its reason and the others go on: the exit code is 0 if any could be measured, else 5.
    """
    from q3edge.cli.tables.report import report_table

    result = q3edge.sweep(model, output, **options)
    if as_json:
        emit_json({"output": str(output), "resumed": list(result.resumed), **result.report.to_json()})
    else:
        show(report_table(result.report))
    say(f"wrote {output / 'report.html'}, .json and .md")
    if not result.report.variants:
        raise ValidationError(f"{output}: every format failed; the reasons are in report.html")
