"""Slices and the recovery score: known numbers, what is the same in every bootstrap sample, and KL against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.scorecard.passages import Passage
from q3edge.evaluation.scorecard.readings import TOP, Place, Reading, read_passage
from q3edge.evaluation.scorecard.slices import (
    ReadPassage,
    accuracy_scores,
    area_score,
    histogram,
    kind_slices,
    recovery_score,
    slices,
)
from q3edge.evaluation.suites.suite import Item

RANDOM = np.random.default_rng(0)
NOWHERE = Place(0, 0.0, (), ())
AREA: Callable[[Passage], str] = lambda passage: passage.item.area  # noqa: E731


def question(area: str, reference: float, candidate: float, tokens: int = 4) -> ReadPassage:
    """A question whose answer's last two of `tokens` tokens have these -log probabilities."""
    wanted, found = (np.r_[np.full(tokens - 2, 9.0), value, value] for value in (reference, candidate))
    metrics = TokenMetrics(np.full(tokens, 0.1), np.ones(tokens), wanted, found, np.zeros(tokens), np.zeros(tokens))
    window = Window(area, np.arange(tokens + 1))
    item = Item("i", "answer", area, "en", "?", "a", "a")
    return ReadPassage(Passage("s", item, window, tokens - 2, tokens), Reading(metrics, NOWHERE))


def choice(reference: int, candidate: int, right: str = "B") -> ReadPassage:
    made = question("knowledge", 1.0, 1.0)
    item = Item("i", "choice", "knowledge", "en", "?", right, right, choices=("x", "y"))
    passage = Passage("s", item, made.passage.window, 2, 3, (7, 8))
    return ReadPassage(passage, Reading(made.reading.metrics, NOWHERE, reference, candidate))


def test_likelihood_counts_the_answer_only() -> None:
    found = slices([question("math", 1.0, 1.5), question("math", 2.0, 2.5)], AREA)["math"].slice
    assert (found.items, found.metric) == (2, "likelihood")
    assert found.reference_score.value == pytest.approx(np.exp(-1.5))
    assert found.candidate_score.value == pytest.approx(np.exp(-2.0))
    assert found.recovery is not None
    assert found.recovery.value == pytest.approx(100 * np.exp(-0.5))
    assert found.recovery.low is None  # two questions say nothing about how they vary
    assert found.comparison is not None
    assert found.comparison.tokens == 8


def test_interval_is_paired() -> None:
    """Both models find the same questions hard: their scores vary, their ratio does not."""
    hard = RANDOM.uniform(0.5, 4, 50)
    found = slices([question("math", nll, nll + 0.1) for nll in hard], AREA)["math"].slice
    assert found.recovery is not None
    assert found.recovery.low == pytest.approx(found.recovery.value)
    assert found.recovery.high == pytest.approx(found.recovery.value)
    assert found.reference_score.high is not None
    assert found.reference_score.low is not None
    assert found.reference_score.high > 1.2 * found.reference_score.low


def text(area: str, reference: float, candidate: float, tokens: int = 200) -> ReadPassage:
    """A text of which every token has these -log probabilities."""
    made = question(area, reference, candidate, 2)
    wanted, found = (np.full(tokens, value) for value in (reference, candidate))
    zeros, ones = np.zeros(tokens), np.ones(tokens)
    window = Window(area, np.arange(tokens + 1))
    passage = Passage("t", replace(made.passage.item, id="t", kind="text"), window, 0, tokens)
    return ReadPassage(passage, Reading(TokenMetrics(zeros, ones, wanted, found, zeros, zeros), NOWHERE))


@pytest.mark.parametrize(("of_questions", "of_texts", "scored"), [(0.06, -0.08, "questions"), (-0.08, 0.06, "texts")])
def test_u12_a_gain_on_texts_hides_no_loss_on_questions_nor_the_other_way_round(
    of_questions: float, of_texts: float, scored: str
) -> None:
    hard = RANDOM.uniform(1, 4, 20)
    judged = [*[question("math", nll, nll + of_questions) for nll in hard], text("math", 5.0, 5.0 + of_texts)]
    areas = slices(judged, AREA)
    found = areas["math"].slice
    assert (found.items, found.scored) == (21, scored)
    assert found.recovery is not None
    assert found.recovery.value == pytest.approx(100 * np.exp(-0.06))
    assert found.comparison is not None
    assert found.comparison.tokens == 20 * 4 + 200
    recovery, _, _ = recovery_score(areas)
    assert recovery is not None
    assert recovery.value == pytest.approx(100 * np.exp(-0.06))
    kinds = {name: part.slice for name, part in kind_slices(judged).items()}
    assert {name: part.items for name, part in kinds.items()} == {"questions": 20, "texts": 1}
    for name, lost in (("questions", of_questions), ("texts", of_texts)):
        value = kinds[name].recovery
        assert value is not None
        assert value.value == pytest.approx(100 * np.exp(-lost))
    assert kind_slices(judged[:20]) == kind_slices(judged[20:]) == {}


def test_u12_answers_replace_the_reading_of_questions_and_hide_no_loss_on_texts() -> None:
    judged = [question("math", 1.0, 1.0), text("math", 5.0, 5.2)]
    for right, scored in ((1.0, "texts"), (0.5, "questions")):
        by_candidate = [True, right == 1.0]
        answered = area_score(2, "accuracy", "questions", accuracy_scores([True, True], by_candidate, 0))
        found = slices(judged, AREA, {"math": answered})["math"].slice
        assert (found.items, found.scored) == (3, scored)
        assert found.recovery is not None
        assert found.recovery.value == pytest.approx(min(100 * right, 100 * np.exp(-0.2)))


def test_accuracy() -> None:
    judged = [choice(1, 1), choice(1, 0), choice(1, 1), choice(0, 1), *[choice(1, 1)] * 6]
    found = slices(judged, AREA)["knowledge"].slice
    assert found.metric == "accuracy"
    assert (found.reference_score.value, found.candidate_score.value) == (0.9, 0.9)
    assert found.recovery is not None
    assert found.recovery.value == pytest.approx(100)
    assert found.recovery.low is not None
    assert found.recovery.low < 100


def test_mixed_slices_are_likelihoods() -> None:
    assert slices([choice(1, 1), question("knowledge", 1.0, 1.0)], AREA)["knowledge"].slice.metric == "likelihood"


def test_recovery_is_weighted_and_what_does_not_count_is_said() -> None:
    areas = slices(
        [question("math", 1.0, 1.0), question("code", 1.0, 1.2), choice(0, 1), question("gardening", 1.0, 3.0)], AREA
    )
    recovery, weights, notices = recovery_score(areas)
    assert weights == {"math": 25 / 45, "code": 20 / 45}
    assert recovery is not None
    assert recovery.value == pytest.approx((25 * 100 + 20 * 100 * np.exp(-0.2)) / 45)
    assert [(notice.code, notice.count) for notice in notices] == [("areas-not-counted", 2)]
    assert "knowledge, gardening" in notices[0].detail
    assert recovery_score(slices([choice(0, 0)], AREA))[:2] == (None, {})


def test_a_gain_in_one_area_makes_up_for_no_loss_in_another() -> None:
    losing = [question("math", nll, nll + 0.2) for nll in RANDOM.uniform(1, 4, 30)]
    gaining = [question("multilingual", nll, nll - RANDOM.uniform(0, 2)) for nll in RANDOM.uniform(4, 8, 30)]
    areas = slices([*losing, *gaining], AREA)
    gained = areas["multilingual"].slice.recovery
    assert gained is not None
    assert gained.value > 150
    recovery, _, _ = recovery_score(areas)
    assert recovery is not None
    assert recovery.value == pytest.approx((25 * 100 * np.exp(-0.2) + 15 * 100) / 40)
    assert recovery.low is not None
    assert recovery.high is not None
    assert recovery.low <= recovery.value <= recovery.high < 100


def test_the_interval_holds_the_value_where_all_areas_are_near_100() -> None:
    near = [
        question(area, nll, nll + RANDOM.normal(-0.02, 0.3))
        for area in ("knowledge", "math", "code", "multilingual", "safety")
        for nll in RANDOM.uniform(1, 4, 12)
    ]
    recovery, _, _ = recovery_score(slices(near, AREA))
    assert recovery is not None
    assert recovery.low is not None
    assert recovery.high is not None
    assert recovery.low <= recovery.value <= recovery.high <= 100


def test_equal_models_recover_exactly_100() -> None:
    judged = [question(area, nll, nll) for area in ("math", "code", "safety") for nll in RANDOM.uniform(0, 5, 20)]
    recovery, weights, _ = recovery_score(slices([*judged, *[choice(1, 1)] * 20], AREA))
    assert recovery is not None
    assert (recovery.value, recovery.low, recovery.high) == (100, 100, 100)
    assert sum(weights.values()) == pytest.approx(1)


def test_intervals_are_reproducible_and_hold_the_value() -> None:
    judged = [question("math", nll, nll + RANDOM.normal(0.1, 0.2)) for nll in RANDOM.uniform(0.5, 4, 40)]
    found, again = (slices(judged, AREA)["math"].slice for _ in range(2))
    assert found == again
    assert found.recovery is not None
    assert found.recovery.low is not None
    assert found.recovery.high is not None
    assert found.recovery.low < found.recovery.value < found.recovery.high


def test_the_same_items_have_the_same_interval() -> None:
    judged = [question("math", nll, nll + RANDOM.normal(0.1, 0.2)) for nll in RANDOM.uniform(0.5, 4, 40)]
    assert slices(judged, AREA)["math"].slice == slices(judged, lambda passage: passage.suite)["s"].slice


def test_histogram_counts_every_token() -> None:
    def with_kl(*kl: float) -> ReadPassage:
        made = question("math", 1.0, 1.0, len(kl))
        metrics = made.reading.metrics
        return ReadPassage(
            made.passage,
            Reading(TokenMetrics(np.array(kl), *[metrics.top1_agreement] * 5), NOWHERE),
        )

    found = histogram([with_kl(0.0, 1e-6, 0.02), with_kl(0.02, 1e9)])
    assert sum(found.counts) == 5
    assert found.counts[0] == 1
    assert found.counts[1] == 1
    assert found.counts[-1] == 1
    assert found.counts[[edge > 0.02 for edge in found.edges].index(True) - 1] == 2
    assert all(np.diff(found.edges) > 0)


def in_chunks(logits: NDArray[np.float32], size: int = 7) -> list[NDArray[np.float32]]:
    return [logits[start : start + size] for start in range(0, len(logits), size)]


def logits_and_passage(tokens: int = 20, vocab: int = 50) -> tuple[NDArray[np.float32], NDArray[np.float32], Passage]:
    reference = RANDOM.normal(0, 4, (tokens, vocab)).astype(np.float32)
    candidate = reference + RANDOM.normal(0, 1, reference.shape).astype(np.float32)
    item = Item("c", "choice", "knowledge", "en", "?", "B", "B", choices=("x", "y", "z"))
    window = Window("knowledge", RANDOM.integers(0, vocab, tokens + 1))
    return reference, candidate, Passage("s", item, window, 9, 10, (11, 12, 13))


def test_reading_agrees_with_naive_float64() -> None:
    reference, candidate, passage = logits_and_passage()
    found = read_passage(passage, [iter(in_chunks(reference)), iter(in_chunks(candidate))])
    assert found is not None
    p, q = (
        x.astype(np.float64) - np.log(np.exp(x.astype(np.float64)).sum(-1, keepdims=True))
        for x in (reference, candidate)
    )
    kl = (np.exp(p) * (p - q)).sum(-1)
    np.testing.assert_allclose(found.metrics.kl, kl, atol=1e-6)
    np.testing.assert_allclose(found.metrics.reference_nll, -p[np.arange(20), passage.window.targets], atol=1e-6)
    assert found.worst.position == kl.argmax()
    assert [token for token, _ in found.worst.reference_next] == np.argsort(-p[kl.argmax()])[:TOP].tolist()
    assert found.worst.candidate_next[0][1] == pytest.approx(np.exp(q[kl.argmax()].max()))
    assert found.reference_choice == reference[9, 11:14].argmax()
    assert found.candidate_choice == candidate[9, 11:14].argmax()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_reading_of_broken_logits(value: float) -> None:
    reference, candidate, passage = logits_and_passage()
    candidate[15, 3] = value
    assert read_passage(passage, [iter(in_chunks(reference)), iter(in_chunks(candidate))]) is None
