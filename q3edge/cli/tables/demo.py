"""The demo's table, a row at a time, and answers to look at, as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from q3edge.cli.tables.tables import estimate
from q3edge.formats import FLOAT

if TYPE_CHECKING:
    from q3edge.evaluation.distance.statistics import Estimate
    from q3edge.pipeline.demo import DemoAnswer, DemoRow

_HEADER = ("format", "MB", "of float", "text KL (nats)", "answers right (%)", "tokens/s")
_WIDTHS = (5, 8, 24, 17, 8)  # of all but the first, fixed, as no row waits for the next
_SMALLEST_KL = 5e-5  # from which on four decimals show something


class DemoTable:
    """A table that is written row by row: by format size, KL from float, right answers, speed."""

    def __init__(self, write: Callable[[str], object], four_bits: str) -> None:
        """Make a table whose lines go to `write`; four_bits: the longest name of a format."""
        self._write = write
        self._widths = (max(len(four_bits), len(_HEADER[0])), *_WIDTHS)
        self._float_bytes: int | None = None

    def add(self, row: DemoRow) -> None:
        """Write a row, before the first one the head; the first one is the float model's."""
        if self._float_bytes is None:
            self._float_bytes = row.model_bytes
            self._write(self._line(_HEADER))
            self._write("  ".join("-" * width for width in self._widths))
        self._write(self._line(_cells(row, self._float_bytes)))

    def _line(self, cells: tuple[str, ...]) -> str:
        first, *others = zip(cells, self._widths)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])


def demo_answers(answers: tuple[DemoAnswer, ...], four_bits: str) -> str:
    """Format questions with the answers of the float model and of the format of 4 bits."""
    compared = (FLOAT, four_bits)
    width = max(map(len, compared)) + 1
    return "\n".join(
        line
        for answer in answers
        for line in (
            answer.question,
            *(f"  {name + ':':<{width}} {_judged(answer.given[name], answer.right)}" for name in compared),
        )
    )


def _cells(row: DemoRow, float_bytes: int) -> tuple[str, ...]:
    return (
        row.format,
        f"{row.model_bytes / 1e6:.2f}",
        f"{100 * row.model_bytes / float_bytes:.0f} %",
        _kl(row.text_kl),
        estimate(row.accuracy, 3, scale=100),
        f"{row.tokens_per_second:.0f}",
    )


def _judged(given: str, right: str) -> str:
    return given if given == right else f"{given or '(nothing)'}   (right: {right})"


def _kl(found: Estimate) -> str:
    if found.value < _SMALLEST_KL or found.low is None or found.high is None:
        return "0.0000"
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
