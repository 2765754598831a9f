"""Which unit gets which width under a budget of bytes: an exact multiple-choice knapsack. Knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from q3edge.errors import ResourceError

_GAP = 1e-6  # relative distance to the optimum at which the solver may stop


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a unit: its bytes, and what it costs in nats of KL to the float model."""

    size: int
    cost: float


def allocate(units: Sequence[Sequence[Choice]], budget: int) -> list[int] | None:
    """For every unit the number of its choice: the smallest summed cost within `budget` bytes; None: nothing fits.

    Solved as an integer program, one binary variable a choice (Kellerer, Pferschy, Pisinger 2004, chapter 11).
    """
    least = [min(choice.size for choice in unit) for unit in units]
    room = budget - sum(least)
    if room < 0:
        return None
    # What choices take beyond the smallest, in their common divisor: small whole numbers, which floats add exactly.
    extra = [choice.size - smallest for unit, smallest in zip(units, least) for choice in unit]
    divisor = math.gcd(*extra) or 1
    extra, room = [size // divisor for size in extra], room // divisor
    limit = room
    while True:
        picked = _solve(units, extra, limit)
        over = sum(unit[number].size for unit, number in zip(units, picked)) - budget
        if over <= 0:
            return picked
        limit = max(0, limit - -(-over // divisor))  # numbers too large for the solver's tolerance


def _solve(units: Sequence[Sequence[Choice]], sizes: Sequence[int], limit: int) -> list[int]:
    costs = np.array([choice.cost for unit in units for choice in unit])
    starts = np.cumsum([0, *map(len, units)])
    # One row a unit: exactly one of its choices is taken.
    one_each = csr_array((np.ones(len(costs)), np.arange(len(costs)), starts), shape=(len(units), len(costs)))
    found = milp(
        costs / max(float(costs.max()), np.finfo(float).tiny),
        integrality=np.ones(len(costs)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(np.array([sizes], float), -np.inf, limit)],
        options={"mip_rel_gap": _GAP},
    )
    if found.x is None:
        raise ResourceError(f"the bits could not be shared out: {found.message}")
    return [int(np.argmax(found.x[start:stop])) for start, stop in pairwise(starts.tolist())]
