"""Writing a report: the page, the JSON and the Markdown, each complete or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

from q3edge.errors import ResourceError
from q3edge.report.content import Report
from q3edge.report.markdown import render_markdown
from q3edge.report.page.page import render_page


def write_report(
    report: Report, *, page: Path | None = None, json_file: Path | None = None, markdown: Path | None = None
) -> None:
    """Write what has a path; what stood there is replaced. ResourceError: it cannot be written."""
    if page is not None:
        _write(page, render_page(report))
    if json_file is not None:
        text = json.dumps(report.to_json(), indent=1, ensure_ascii=True, allow_nan=False)
        _write(json_file, text + "\n")
    if markdown is not None:
        _write(markdown, render_markdown(report))


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot be written ({error.strerror}); free space or choose another") from error
