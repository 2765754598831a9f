"""Number styles of a report, one for each kind of number, the same on the page and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class Interval(Protocol):
    """A value with bounds, or None where there are none, such as `Estimate`."""

    @property
    def value(self) -> float:
        """The value itself."""

    @property
    def low(self) -> float | None:
        """The lower bound."""

    @property
    def high(self) -> float | None:
        """The upper bound."""


STYLES: Mapping[str, Callable[[float], str]] = {
    "percent": lambda value: f"{value:.1f}",  # of a number in percent
    "share": lambda value: f"{100 * value:.1f}",  # of a fraction, shown in percent
    "whole_share": lambda value: f"{100 * value:.0f}",
    "nats": lambda value: f"{value:.3g}",
    "loss": lambda value: f"{value:.2e}",
    "megabytes": lambda value: f"{value / 1e6:.1f}",  # of bytes
    "whole_megabytes": lambda value: f"{value / 1e6:.0f}",
    "rate": lambda value: f"{value:.0f}" if value >= 100 else f"{value:.1f}",
    "bits": lambda value: f"{value:.2f}",
    "count": lambda value: f"{value:,.0f}".replace(",", "\u202f"),
    "tokens": lambda value: f"{value:.1f}",
    "seconds": lambda value: f"{value:.3g}",
    "p": lambda value: f"{value:.2f}" if value >= 0.01 else f"{value:.0e}",
}


def budget_words(budget: int | None) -> str:
    """Thinking budget as tables show it: its tokens, or "no limit"."""
    return "no limit" if budget is None else str(budget)


def with_interval(found: Interval | None, style: str) -> str:
    """Value with its interval, 98.1 [97.2, 98.9]; the value alone without an interval; an en dash for None."""
    if found is None:
        return "–"
    write = STYLES[style]
    if found.low is None or found.high is None:
        return write(found.value)
    return f"{write(found.value)} [{write(found.low)}, {write(found.high)}]"
