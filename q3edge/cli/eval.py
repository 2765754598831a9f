"""`q3edge eval`: what of the reference's knowledge, maths, code and languages an ONNX artifact keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from q3edge.cli.console import FOLDER, emit_json, json_option, show_notices
from q3edge.cli.options.measuring import build_measuring, measuring_options


@click.command("eval")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--reference",
    required=True,
    metavar="MODEL",
    help="The float checkpoint, a folder or a hub id; or the folder of another ONNX model.",
)
@measuring_options
@json_option
def evaluate(folder: Path, reference: str, as_json: bool, **measuring_flags: Any) -> None:
    """Compare the ONNX model in DIR with MODEL on questions, programs and texts, area by area.

    Both models read every item with its right answer; with --generate they answer in their own words too. Reports how
    much of the reference's score is kept, in percent, with 95 % confidence intervals, and where the two differ most.
    Killed, it goes on where it stopped. Exit code 5: the artifact looks broken. DIR is not changed.
    """
    from q3edge.cli.tables.scorecard import scorecard_table
    from q3edge.evaluation.validation.results import require_passed
    from q3edge.pipeline.measure.measuring import evaluated

    scorecard = evaluated(folder, build_measuring(reference, **measuring_flags))
    show_notices(scorecard.notices)
    if as_json:
        emit_json(scorecard.to_json())
    else:
        click.echo(scorecard_table(scorecard))
    require_passed(str(folder), scorecard.checks)
