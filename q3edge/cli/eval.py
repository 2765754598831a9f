"""`q3edge eval`: evaluation of an ONNX artifact against a reference in knowledge, maths, code and languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, require_passed, show, show_notices
from q3edge.cli.options.common import MODEL, MODEL_FOLDER, json_option
from q3edge.cli.options.measuring import measuring_options, thinking_budget_option


@click.command("eval", short_help="Score it on questions, programs and texts.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@click.option(
    "--reference",
    type=MODEL,
    required=True,
    metavar="MODEL",
    help="The float checkpoint, a folder or a hub id; or the folder of another ONNX model.",
)
@measuring_options
@thinking_budget_option
@json_option
def evaluate(folder: Path, as_json: bool, **options: Any) -> None:
    """Compare the ONNX model in DIR with MODEL on questions, programs and texts, area by area.

    Both models read every item with its right answer; with --generate they also generate answers. Reports how
    much of the reference's score is kept, in percent, with 95 % confidence intervals, and where the two differ most.
    A killed evaluation is continued by the same command. Exit code 5: the artifact looks broken. DIR is not changed.
    """
    from q3edge.cli.tables.scorecard import scorecard_table

    scorecard = q3edge.evaluate(folder, **options)
    show_notices(scorecard.notices)
    if as_json:
        emit_json(scorecard.to_json())
    else:
        show(scorecard_table(scorecard))
    require_passed(folder, scorecard.checks)
