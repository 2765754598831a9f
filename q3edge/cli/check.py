"""`q3edge check`: gate check of an ONNX artifact, with the result as exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, require_passed, show
from q3edge.cli.options.common import FILE, MODEL, MODEL_FOLDER, json_option, number_option
from q3edge.cli.options.measuring import measuring_options


@click.command(short_help="Exit with 5 if it misses a limit: for scripts.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@number_option("--max-kl", "Largest mean KL that passes.", metavar="NATS")
@number_option(
    "--min-recovery",
    "Smallest recovery that passes; it is the lower end of the 95 % interval that has to reach it.",
    metavar="PERCENT",
)
@click.option("--reference", type=MODEL, metavar="MODEL", help="Evaluate DIR against this float checkpoint.")
@click.option("--scorecard", type=FILE, metavar="FILE", help="Take the numbers from the JSON of `eval` or `report`.")
@measuring_options
@json_option
def check(folder: Path, as_json: bool, **options: Any) -> None:
    """Exit with 5 if the ONNX model in DIR misses a limit, with 0 if it meets all of them.

    DIR is a folder or the id of a model on the hub.

    With --reference or --scorecard it is the mean KL on the suites that --max-kl limits; without them it is the mean KL
    on the build's text, as recorded in DIR.
    """
    from q3edge.cli.tables.report import gate_table

    report = q3edge.check(folder, **options)
    if as_json:
        emit_json(report.to_json())
    else:
        show(gate_table(report))
    require_passed(report.artifact, report.results)
