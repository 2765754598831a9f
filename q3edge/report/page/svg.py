"""What every chart is made of: the frame with its name and description, and text that stays text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from q3edge.report.plain_text import visible

WIDTH = 420  # of a chart's viewBox, unless it says otherwise; the page scales it


def svg(key: str, title: str, description: str, height: float, body: Sequence[str], width: float = WIDTH) -> str:
    """The element around `body`; `key` makes the ids of its name and description unique on the page."""
    name, details = f"{escape(key)}-title", f"{escape(key)}-desc"
    return (
        f'<svg role="img" aria-labelledby="{name} {details}" viewBox="0 0 {width} {height}">'
        f'<title id="{name}">{shown(title)}</title><desc id="{details}">{shown(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def text(x: float, y: float, content: str, kind: str, anchor: str = "start") -> str:
    """A line of text; `kind` is its CSS class, `anchor` start, middle or end."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown(content)}</text>'


def shown(content: str) -> str:
    """Text of unknown origin, escaped, with nothing invisible in it."""
    return escape(visible(content))
