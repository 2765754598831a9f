"""Axes: every value lies inside, ticks are round and rise, positions are monotonous."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q3edge.report.page.axes import fitting_axis, linear_axis, log_axis, tick_text

numbers = st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 6))
positive = st.floats(1e-9, 1e9)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_a_linear_axis_holds_its_values(values: list[float]) -> None:
    axis = linear_axis(values)
    assert all(-1e-9 <= axis.position(value) <= 1 + 1e-9 for value in values)
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert 2 <= len(axis.ticks) <= 9


@given(st.lists(positive, min_size=1, max_size=8))
def test_a_log_axis_holds_its_values(values: list[float]) -> None:
    axis = log_axis(values)
    assert all(0 <= axis.position(value) <= 1 for value in values)
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert len(axis.ticks) <= 5
    places = [axis.position(value) for value in sorted(values)]
    assert places == sorted(places)


def test_ticks_are_what_people_would_choose() -> None:
    assert linear_axis([0, 10]).ticks == (0, 2.5, 5, 7.5, 10)
    assert linear_axis([92.3, 100]).ticks == (92, 94, 96, 98, 100)
    assert [tick_text(tick) for tick in log_axis([0.0011, 0.15]).ticks] == ["0.001", "0.003", "0.01", "0.03", "0.1"]
    assert linear_axis([3, 40], from_zero=True).low == 0


def test_an_axis_without_values_or_with_one_still_has_room() -> None:
    for axis in (linear_axis([]), linear_axis([5.0]), log_axis([]), log_axis([5.0]), linear_axis([0.0])):
        assert axis.low < axis.high


@pytest.mark.parametrize(("values", "log"), [([1, 2, 3], False), ([1, 100], True), ([0, 100], False), ([], False)])
def test_sizes_that_differ_a_lot_are_shown_by_their_logarithm(values: list[float], log: bool) -> None:
    assert fitting_axis(values).log is log
