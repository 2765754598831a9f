"""Multiple-choice knapsack: one choice per item under a budget of bytes. Knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_STEPS = 1 << 18  # into which the budget is divided


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store an item: its bytes, and its cost in nats of KL to the float model."""

    size: int
    cost: float


def solve_knapsack(items: Sequence[Sequence[Choice]], budget: int) -> list[int] | None:
    """Choose one option per item with the smallest summed cost within `budget` bytes; None if nothing fits.

    Returns the number of each item's choice.

    Exact by dynamic programming over the bytes beyond the smallest choices, in their common divisor (Kellerer,
    Pferschy, Pisinger 2004, chapter 11). Where that makes more than 2**18 steps, sizes are rounded up to whole steps:
    the budget still holds, and at most one step for each item is left unused.
    """
    least = [min(choice.size for choice in item) for item in items]
    room = budget - sum(least)
    if room < 0:
        return None
    divisor = math.gcd(*(choice.size - smallest for item, smallest in zip(items, least) for choice in item)) or 1
    step = divisor * -(-room // (divisor * _MOST_STEPS)) or 1
    steps = room // step
    best = np.zeros(steps + 1)  # smallest cost of the items so far within 0, 1, ... steps
    picks = np.zeros((len(items), steps + 1), np.uint8)
    for item, smallest, pick in zip(items, least, picks):
        found = np.full(steps + 1, np.inf)
        for number, choice in enumerate(item):
            used = -(-(choice.size - smallest) // step)
            if used <= steps:
                cost = best[: steps + 1 - used] + choice.cost
                better = cost < found[used:]
                found[used:][better] = cost[better]
                pick[used:][better] = number
        best = found
    chosen: list[int] = []
    for item, smallest, pick in zip(reversed(items), reversed(least), reversed(picks)):
        number = int(pick[steps])
        chosen.append(number)
        steps -= -(-(item[number].size - smallest) // step)
    return chosen[::-1]
