"""The knapsack against all combinations."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from q3edge.calibration.budget.allocation import Choice, solve_knapsack

CHOICE = st.builds(Choice, st.integers(1, 10**4), st.floats(0, 10).map(lambda cost: round(cost, 6)))
ITEMS = st.lists(st.lists(CHOICE, min_size=1, max_size=4), min_size=1, max_size=5)


def totals(items: list[list[Choice]], picked: tuple[int, ...]) -> tuple[int, float]:
    chosen = [item[number] for item, number in zip(items, picked, strict=True)]
    return sum(choice.size for choice in chosen), sum(choice.cost for choice in chosen)


@given(ITEMS, st.floats(0, 1.1))
def test_the_best_sum_within_the_budget_is_found(items: list[list[Choice]], share: float) -> None:
    every = [totals(items, picked) for picked in product(*(range(len(item)) for item in items))]
    budget = int(share * max(size for size, _ in every))
    fitting = [cost for size, cost in every if size <= budget]
    picked = solve_knapsack(items, budget)
    if not fitting:
        assert picked is None
        return
    assert picked is not None
    size, cost = totals(items, tuple(picked))
    assert size <= budget
    assert cost <= min(fitting) + 1e-9


def test_bytes_near_the_budget_are_counted_exactly() -> None:
    items = [[Choice(10**9, 1.0), Choice(10**9 + 1, 0.0)] for _ in range(3)]
    assert sorted(solve_knapsack(items, 3 * 10**9 + 1) or []) == [0, 0, 1]
    assert solve_knapsack(items, 3 * 10**9) == [0, 0, 0]
    assert solve_knapsack(items, 3 * 10**9 - 1) is None


@given(st.integers(0, 2**32), st.floats(0.05, 0.95))
def test_more_steps_than_are_counted_cost_next_to_nothing(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    items = [
        [
            Choice(int(size), float(cost))
            for size, cost in zip(rng.integers(1, 10**9, 4), rng.uniform(0, 1, 4), strict=True)
        ]
        for _ in range(3)
    ]
    every = [totals(items, picked) for picked in product(range(4), repeat=3)]
    budget = int(share * max(size for size, _ in every))
    room = budget - 3 * (budget >> 18) - 3
    picked = solve_knapsack(items, budget)
    if picked is not None:
        size, cost = totals(items, tuple(picked))
        assert size <= budget
        assert cost <= min((cost for size, cost in every if size <= room), default=np.inf)
