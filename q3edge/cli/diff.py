"""`q3edge diff`: what changed between two ONNX artifacts."""

from __future__ import annotations

from pathlib import Path

import click

from q3edge.cli.console import FOLDER, emit_json, json_option, threads_option
from q3edge.cli.validate import max_tokens_option


@click.command()
@click.argument("a", metavar="A", type=FOLDER)
@click.argument("b", metavar="B", type=FOLDER)
@max_tokens_option
@threads_option
@json_option
def diff(a: Path, b: Path, max_tokens: int, threads: int | None, as_json: bool) -> None:
    """Show what changed from the ONNX model in A to the one in B.

    Recipe, sizes, notices, versions and measured values; then how far B's predictions are from A's on the built-in
    text: identical models have a KL of exactly 0. The exit code is 0 whatever differs.
    """
    from q3edge.cli.tables.report import diff_table
    from q3edge.pipeline.measure.diff import diff_artifacts

    found = diff_artifacts(a, b, max_tokens=max_tokens, threads=threads)
    if as_json:
        emit_json(found.to_json())
    else:
        click.echo(diff_table(found))
