"""`q3edge report`: ONNX artifacts side by side on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from q3edge.cli.console import FILE, FOLDER, say
from q3edge.cli.options.measuring import build_measuring, gate_options, measuring_options, no_speed_option


@click.command()
@click.argument("folders", metavar="DIR...", type=FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", "page", type=FILE, required=True, metavar="FILE", help="HTML page to write.")
@click.option("--reference", metavar="MODEL", help="The float checkpoint: a folder or a hub id.")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the same numbers as JSON.")
@click.option("--markdown", type=FILE, metavar="FILE", help="Write tables for a model card.")
@gate_options
@no_speed_option
@measuring_options
def report(
    folders: tuple[Path, ...],
    page: Path,
    reference: str | None,
    json_file: Path | None,
    markdown: Path | None,
    min_recovery: float,
    max_kl: float,
    **measuring_flags: Any,
) -> None:
    """Compare the ONNX models in DIR... on one HTML page: accuracy, size, speed, and which one to ship.

    What was not measured before is: accuracy against --reference, then speed. The page is one file that needs no
    network. Without --reference it shows what `build` measured.
    """
    from q3edge.cli.tables.report import report_table
    from q3edge.pipeline.measure.report import make_report
    from q3edge.report.files import write_report
    from q3edge.report.gates import Gates

    measuring = build_measuring(reference, **measuring_flags)
    found = make_report(folders, measuring, Gates(min_recovery, max_kl))
    write_report(found, page=page, json_file=json_file, markdown=markdown)
    click.echo(report_table(found))
    say(f"wrote {page}")
