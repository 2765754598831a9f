"""The Pareto front against its definition, the gates, and which variant is advised."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.validation.results import CheckResult
from q3edge.report.content import compared_kl
from q3edge.report.gates import Gates
from q3edge.report.recommendation import pareto_front, recommend
from tests.helpers.reports import comparison, variant

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(pairs)
def test_the_front_is_who_nobody_beats(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    front = pareto_front(points)
    unbeaten = {point for point in points if not any(beats(other, point) for other in points)}
    assert {points[i] for i in front} == unbeaten
    assert len(front) == len(unbeaten)  # equal points are there once
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_the_smallest_that_passes_is_advised_and_smaller_ones_are_refused_with_reasons() -> None:
    found = [variant("large", 900, 0.001, 99.9), variant("middle", 500, 0.02, 98.5), variant("small", 300, 0.2, 90.0)]
    advice = recommend(found, Gates(), 1000, "suite_kl")
    assert (advice.name, advice.smallest, advice.most_accurate) == ("middle", "small", "large")
    size = "0.0 MB, 50 % of the checkpoint's 0.0 MB"
    assert advice.sentence.startswith(f"Ship middle: {size}, recovery 98.5 % [97.8, 99.1], suite KL ")
    assert advice.rule.endswith("and a mean KL on the suites of at most 0.05 nats.")
    assert set(advice.refused) == {"small"}
    assert advice.refused_title == "Why no smaller one"
    assert "at most 0.05" in advice.refused["small"]
    assert "at least 97 %" in advice.refused["small"]


def test_it_is_the_lower_bound_that_has_to_reach_the_limit() -> None:
    found = [variant("close", 300, 0.01, 97.5)]  # its interval begins at 96.8
    assert recommend(found, Gates(), None, "suite_kl").name is None
    assert recommend(found, Gates(min_recovery=96.8 - 1e-6), None, "suite_kl").name == "close"


def test_if_none_passes_it_says_so() -> None:
    advice = recommend([variant("bad", 300, 1.0, 60.0)], Gates(), 1000, "suite_kl")
    assert advice.name is None
    assert advice.sentence == "Ship none of these: no variant passes."
    assert set(advice.refused) == {"bad"}
    assert advice.refused_title == "Why none passes"
    assert recommend([], Gates(), 1000, "suite_kl").sentence == "There is no variant to judge."


def test_q5_what_looks_broken_is_never_advised() -> None:
    small, large = variant("small", 300, 0.001, 99.9), variant("large", 900, 0.001, 99.9)
    assert small.scorecard is not None
    dead = CheckResult("dead_matrices", "fail", 1.0, 0.0, "1 weights are all zero or all alike")
    broken = replace(small, scorecard=replace(small.scorecard, checks=(*small.scorecard.checks, dead)))
    for gates in (Gates(), Gates(None, None)):
        advice = recommend([broken, large], gates, 1000, "suite_kl")
        assert (advice.name, advice.refused) == ("large", {"small": dead.reason})
        assert recommend([small, large], gates, 1000, "suite_kl").name == "small"


@pytest.mark.parametrize(
    ("recovery", "kl", "undecided"),
    [
        (Estimate(97.5, 96.8, 98), Estimate(0.01, 0.01, 0.02), True),
        (Estimate(60, None, None), Estimate(0.01, None, None), True),
        (Estimate(96.9, 90.0, 98), Estimate(0.01, 0.01, 0.02), False),
        (Estimate(97.5, 96.8, 98), Estimate(0.06, 0.01, 0.09), False),
        (Estimate(97.5, 96.8, 98), None, False),
        (None, Estimate(0.01, 0.01, 0.02), False),
        (Estimate(97.5, 97.1, 98), Estimate(0.01, 0.01, 0.02), False),
    ],
)
def test_u11_undecided_is_what_more_items_could_decide(
    recovery: Estimate | None, kl: Estimate | None, undecided: bool
) -> None:
    assert Gates().undecided(recovery, kl, "suite_kl") == undecided


def test_u11_too_few_items_are_no_refusal() -> None:
    found = [variant("close", 300, 0.01, 97.5), variant("bad", 200, 1.0, 60.0)]
    advice = recommend(found, Gates(), None, "suite_kl")
    assert advice.name is None
    assert advice.sentence == (
        "Undecided: too few items to tell whether close can be shipped; measure more (a larger --limit or none, or "
        "more --suite files)."
    )
    assert set(advice.refused) == {"bad", "close"}


def test_what_was_not_measured_does_not_pass() -> None:
    unknown = variant("unknown", 300, 0.0, 100.0, scorecard=None)
    assert recommend([unknown], Gates(), None, "suite_kl").name is None
    assert recommend([unknown], Gates(min_recovery=None, max_kl=None), None, "suite_kl").name == "unknown"


@pytest.mark.parametrize(
    ("recovery", "kl", "statuses"),
    [
        (Estimate(98, 97.0, 99), Estimate(0.05, 0.04, 0.2), ["pass", "pass"]),
        (Estimate(98, 96.9, 99), Estimate(0.0501, 0.01, 0.2), ["fail", "fail"]),
        (Estimate(98, None, None), None, ["skipped", "fail"]),
        (None, Estimate(0.0, 0.0, 0.0), ["pass", "skipped"]),
    ],
)
def test_gates(recovery: Estimate | None, kl: Estimate | None, statuses: list[str]) -> None:
    assert [result.status for result in Gates().judge(recovery, kl, "suite_kl")] == statuses


def test_the_two_kls_never_stand_in_for_each_other() -> None:
    built = variant("built", 300, 0.0, 100.0, scorecard=None, validation=comparison(0.01))
    evaluated = variant("evaluated", 400, 0.02, 99.0, validation=comparison(0.001))
    gates = Gates(min_recovery=None)
    assert recommend([built, evaluated], gates, None, "text_kl").name == "built"
    by_suites = recommend([built, evaluated], gates, None, "suite_kl")
    assert (by_suites.name, by_suites.most_accurate) == ("evaluated", "evaluated")
    assert by_suites.refused == {"built": "mean KL on the suites was not measured"}
    assert (compared_kl([built]), compared_kl([built, evaluated])) == ("text_kl", "suite_kl")
    assert [result.name for result in gates.judge(None, None, "text_kl")] == ["max_text_kl"]


def test_a_float_export_is_not_the_most_accurate_alternative() -> None:
    found = [variant("float", 2000, 0.0001, 100.0), variant("int8", 600, 0.001, 99.9)]
    assert recommend(found, Gates(), 1200, "suite_kl").most_accurate == "int8"
