"""`q3edge diff`: differences between two ONNX artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import MODEL_FOLDER, json_option, kernels_option, threads_option
from q3edge.cli.options.measuring import max_tokens_option


@click.command(short_help="Show what changed from one model to another.")
@click.argument("a", metavar="A", type=MODEL_FOLDER)
@click.argument("b", metavar="B", type=MODEL_FOLDER)
@max_tokens_option
@threads_option
@kernels_option
@json_option
def diff(a: Path, b: Path, as_json: bool, **options: Any) -> None:
    """Show what changed from the ONNX model in A to the one in B.

    Recipe, sizes, notices, versions and measured values; then how far B's predictions are from A's on the built-in
    text: identical models have a KL of exactly 0. The exit code is 0 whatever differs.
    """
    from q3edge.cli.tables.report import diff_table

    found = q3edge.diff(a, b, **options)
    if as_json:
        emit_json(found.to_json())
    else:
        show(diff_table(found))
