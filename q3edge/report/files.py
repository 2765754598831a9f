"""Writing a report: the page, the JSON and the Markdown, each complete or absent."""

from __future__ import annotations

import json
from pathlib import Path

from q3edge.report.content import Report
from q3edge.report.markdown import render_markdown
from q3edge.report.page.page import render_page
from q3edge.storage.whole_files import write_whole


def write_report(
    report: Report, *, page: Path | None = None, json_file: Path | None = None, markdown: Path | None = None
) -> None:
    """Write each form that has a path, replacing a file there. ResourceError: it cannot be written."""
    if page is not None:
        write_whole(page, render_page(report))
    if json_file is not None:
        text = json.dumps(report.to_json(), indent=1, ensure_ascii=True, allow_nan=False)
        write_whole(json_file, text + "\n")
    if markdown is not None:
        write_whole(markdown, render_markdown(report))
