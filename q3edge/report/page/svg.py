"""SVG elements of every chart: the frame with its name and description, and text that is always escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from q3edge.report.plain_text import visible

WIDTH = 420  # of a chart's viewBox, unless it says otherwise; the page scales it


def svg(key: str, title: str, description: str, height: float, body: Sequence[str], width: float = WIDTH) -> str:
    """Wrap `body` in the svg element; `key` makes the ids of its name and description unique on the page."""
    name, details = f"{escape(key)}-title", f"{escape(key)}-desc"
    return (
        f'<svg role="img" aria-labelledby="{name} {details}" viewBox="0 0 {width} {height}">'
        f'<title id="{name}">{shown(title)}</title><desc id="{details}">{shown(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def text(x: float, y: float, content: str, kind: str, anchor: str = "start") -> str:
    """Draw a line of text; `kind` is its CSS class, `anchor` start, middle or end."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown(content)}</text>'


def shown(content: str) -> str:
    """Escape text of unknown origin, with every invisible character written out."""
    return escape(visible(content))
