"""Which unit gets which width under a budget of bytes: a multiple-choice knapsack. Knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_STEPS = 1 << 18  # that the budget is divided into


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a unit: its bytes, and what it costs in nats of KL to the float model."""

    size: int
    cost: float


def solve_knapsack(units: Sequence[Sequence[Choice]], budget: int) -> list[int] | None:
    """For every unit the number of its choice: the smallest summed cost within `budget` bytes; None: nothing fits.

    Exact by dynamic programming over the bytes beyond the smallest choices, in their common divisor (Kellerer,
    Pferschy, Pisinger 2004, chapter 11). Where that makes more than 2**18 steps, sizes are rounded up to whole steps:
    the budget still holds, and at most one step for each unit is left unused.
    """
    least = [min(choice.size for choice in unit) for unit in units]
    room = budget - sum(least)
    if room < 0:
        return None
    divisor = math.gcd(*(choice.size - smallest for unit, smallest in zip(units, least) for choice in unit)) or 1
    step = divisor * -(-room // (divisor * _MOST_STEPS)) or 1
    steps = room // step
    best = np.zeros(steps + 1)  # smallest cost of the units so far within 0, 1, ... steps
    picks = np.zeros((len(units), steps + 1), np.uint8)
    for unit, smallest, pick in zip(units, least, picks):
        found = np.full(steps + 1, np.inf)
        for number, choice in enumerate(unit):
            used = -(-(choice.size - smallest) // step)
            if used <= steps:
                cost = best[: steps + 1 - used] + choice.cost
                better = cost < found[used:]
                found[used:][better] = cost[better]
                pick[used:][better] = number
        best = found
    chosen: list[int] = []
    for unit, smallest, pick in zip(reversed(units), reversed(least), reversed(picks)):
        number = int(pick[steps])
        chosen.append(number)
        steps -= -(-(unit[number].size - smallest) // step)
    return chosen[::-1]
