"""`q3edge check`: is an ONNX artifact accurate enough? The answer is the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from q3edge.cli.console import FILE, FOLDER, emit_json, json_option
from q3edge.cli.options.measuring import build_measuring, measuring_options


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--max-kl", type=click.FloatRange(0), metavar="NATS", help="Largest mean KL that passes.")
@click.option(
    "--min-recovery",
    type=click.FloatRange(0),
    metavar="PERCENT",
    help="Smallest recovery that passes; it is the lower end of the 95 % interval that has to reach it.",
)
@click.option("--reference", metavar="MODEL", help="Evaluate DIR against this float checkpoint.")
@click.option("--scorecard", type=FILE, metavar="FILE", help="Take the numbers from the JSON of `eval` or `report`.")
@measuring_options
@json_option
def check(
    folder: Path,
    max_kl: float | None,
    min_recovery: float | None,
    reference: str | None,
    scorecard: Path | None,
    as_json: bool,
    **measuring_flags: Any,
) -> None:
    """Exit with 5 if the ONNX model in DIR misses a limit, with 0 if it meets all of them.

    With --reference or --scorecard it is the mean KL on the suites that --max-kl limits; without them it is the mean KL
    on the build's text, which DIR itself tells.
    """
    from q3edge.errors import UsageError

    if max_kl is None and min_recovery is None:
        raise UsageError("nothing to check: give --max-kl, --min-recovery or both")
    if reference is not None and scorecard is not None:
        raise UsageError("--reference measures and --scorecard reads what was measured: give one")
    from q3edge.cli.tables.report import gate_table
    from q3edge.evaluation.validation.results import require_passed
    from q3edge.pipeline.measure.gate import check_artifact
    from q3edge.report.gates import Gates

    measuring = build_measuring(reference, **measuring_flags)
    gates = Gates(min_recovery, max_kl)
    report = check_artifact(folder, gates, measuring, scorecard=scorecard)
    if as_json:
        emit_json(report.to_json())
    else:
        click.echo(gate_table(report))
    require_passed(report.artifact, report.results)
