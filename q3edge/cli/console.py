"""Output of every command: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from q3edge.cli.layout import fitted
from q3edge.terminal import say

if TYPE_CHECKING:
    from q3edge.artifact import Notice
    from q3edge.evaluation.validation.results import CheckResult


def show(text: str) -> None:
    """Print a result on stdout; lines that are longer than 80 columns are broken between words."""
    click.echo(fitted(text))


def show_notices(notices: Iterable[Notice]) -> None:
    """Print everything that was approximated, repaired or skipped, one line each on stderr."""
    for notice in notices:
        say(f"note: {notice.detail} ({notice.count}x)" if notice.count > 1 else f"note: {notice.detail}")


def emit_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; NaN is refused rather than printed."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def require_passed(name: object, checks: Iterable[CheckResult]) -> None:
    """Raise ValidationError with every failed check; called after the result is printed."""
    from q3edge.evaluation.validation import results

    results.require_passed(str(name), checks)
