"""Axes of charts: the values that get a tick, the text of ticks, and the position of a value; `charts` draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)  # times a power of ten
_LOG_RATIO = 8.0  # a wider spread of positive values is shown by its logarithm
_MARGIN = 0.09  # of the axis, beyond the outermost value


@dataclass(frozen=True, slots=True)
class Axis:
    """Axis from `low` to `high` (low < high, both positive where `log`), with the values that get a tick."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def position(self, value: float) -> float:
        """Position of a value: 0 at `low`, 1 at `high`, beyond either outside 0..1. A logarithm clips at `low`."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        return (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))


def linear_axis(values: Iterable[float], *, count: int = 5, from_zero: bool = False) -> Axis:
    """An axis around finite `values` (none: 0 to 1) with about `count` round ticks."""
    found = [*values] or [0.0, 1.0]
    low, high = min(found), max(found)
    if from_zero:
        low = min(low, 0.0)
    if high - low < 1e-9 * max(abs(high), abs(low), 1e-300):  # one value: some room around it
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    margin = _MARGIN * (high - low)
    low = low if from_zero and low == 0 else low - margin
    high += margin
    step = _nice_step((high - low) / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(round(i * step, 12) for i in range(first, last + 1)))


def log_axis(values: Iterable[float], *, count: int = 5) -> Axis:
    """An axis around positive `values` with ticks at 1, 2 and 5 times powers of ten; fewer where there are many."""
    found = [value for value in values if value > 0] or [1.0, 10.0]
    low, high = math.log10(min(found)), math.log10(max(found))
    margin = max(_MARGIN * (high - low), 0.06)
    low, high = low - margin, high + margin
    for digits in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) <= count:
            break
    return Axis(10**low, 10**high, tuple(ticks[:: -(-len(ticks) // count)] if ticks else ()), log=True)


def fitting_axis(values: Iterable[float], *, count: int = 5) -> Axis:
    """An axis, logarithmic where all values are positive and the largest is over 8 times the smallest, else linear."""
    found = [*values]
    if found and min(found) > 0 and max(found) > _LOG_RATIO * min(found):
        return log_axis(found, count=count)
    return linear_axis(found, count=count)


def tick_text(value: float) -> str:
    """Text of a tick: 0.02, 150; 1e-6 only where it is far from 1."""
    return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e")


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(nice * power for nice in _NICE if nice * power >= rough * (1 - 1e-9))
