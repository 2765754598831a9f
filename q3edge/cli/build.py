"""`q3edge build`: quantize + export + validate in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, show, show_notices
from q3edge.cli.options.calibration import calibration_options
from q3edge.cli.options.common import (
    MODEL,
    adapter_option,
    experts_option,
    experts_per_token_option,
    json_option,
    last_logits_option,
    output_option,
    overwrite_option,
    scheduler_option,
    threads_option,
)
from q3edge.cli.options.measuring import validation_options
from q3edge.cli.options.recipe import recipe_options, take_recipe
from q3edge.formats import FLOAT, FORMATS
from q3edge.plain_line import typed
from q3edge.terminal import say


@click.command(short_help="Turn a model into a verified ONNX model: all in one command.")
@click.argument("model", type=MODEL)
@adapter_option
@output_option
@recipe_options((*FORMATS, FLOAT))
@calibration_options
@validation_options
@last_logits_option
@experts_option
@experts_per_token_option
@threads_option
@overwrite_option
@scheduler_option
@json_option
def build(model: str, output: Path, as_json: bool, **options: Any) -> None:
    """Turn MODEL (a folder or a hub id) into a verified ONNX model in DIR.

    Quantizes, exports and validates; DIR appears only if every step succeeds and the checks pass.
    """
    from q3edge.cli.tables.tables import validation_table

    built = q3edge.build(model, output, take_recipe(options), **options)
    show_notices(built.manifest.notices)
    if as_json:
        emit_json({"output": str(output), "verdict": built.report.verdict, "metrics": built.manifest.metrics})
        return
    show(validation_table(built.report))
    verb = "embed" if built.manifest.kind == "embedding" else "run"
    size = f"{built.manifest.metrics['model_bytes'] / 1e6:.1f} MB"
    say(f'wrote {output}: {size}; try: q3edge {verb} {typed(output)} "Hello"')
