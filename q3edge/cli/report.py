"""`q3edge report`: comparison of ONNX artifacts on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import FILE, MODEL, MODEL_FOLDER, json_option
from q3edge.cli.options.measuring import gate_options, measuring_options, speed_option, thinking_budget_option
from q3edge.terminal import say


@click.command(short_help="Compare models on one HTML page.")
@click.argument("folders", metavar="DIR...", type=MODEL_FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", "page", type=FILE, required=True, metavar="FILE", help="HTML page to write.")
@click.option("--reference", type=MODEL, metavar="MODEL", help="The float checkpoint: a folder or a hub id.")
@click.option("--json-file", type=FILE, metavar="FILE", help="Write the same numbers as JSON.")
@click.option("--markdown", type=FILE, metavar="FILE", help="Write tables for a model card.")
@gate_options
@speed_option
@measuring_options
@thinking_budget_option
@json_option
def report(folders: tuple[Path, ...], page: Path, as_json: bool, **options: Any) -> None:
    """Compare the ONNX models in DIR... on one HTML page: accuracy, size, speed, and which one to ship.

    Missing measurements are made: accuracy against --reference, then speed. The page is one file that needs no
    network. Without --reference it shows what `build` measured.
    """
    from q3edge.cli.tables.report import report_table

    found = q3edge.make_report(folders, page=page, **options)
    if as_json:
        emit_json(found.to_json())
    else:
        show(report_table(found))
    say(f"wrote {page}")
