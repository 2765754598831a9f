"""`q3edge validate`: distance of an ONNX artifact from the float model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, require_passed, show
from q3edge.cli.options.common import MODEL, MODEL_FOLDER, json_option, kernels_option, threads_option
from q3edge.cli.options.measuring import validation_options


@click.command(short_help="Compare it with the float model that it came from.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@click.option(
    "--reference", type=MODEL, required=True, metavar="MODEL", help="The float checkpoint: a folder or a hub id."
)
@validation_options
@threads_option
@kernels_option
@json_option
def validate(folder: Path, as_json: bool, **options: Any) -> None:
    """Compare the ONNX model in DIR with the float MODEL it came from.

    Reports the KL divergence in nats, top-1 agreement, perplexity and more, each with a 95 %
    confidence interval, and how much of it comes from int8 activations. Of an embedding model, cosines of the vectors,
    and which texts are next to each other. DIR is not changed.
    """
    from q3edge.cli.tables.tables import validation_table

    report = q3edge.validate(folder, **options)
    if as_json:
        emit_json(report.to_json())
    else:
        show(validation_table(report))
    require_passed(folder, report.checks)
