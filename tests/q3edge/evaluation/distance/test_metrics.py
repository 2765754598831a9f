"""Per-token metrics against independent formulas, and the averages and intervals over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from q3edge.evaluation.distance.logits import compare_logits
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.statistics import BLOCK, Comparison, Estimate, summarize

ESTIMATES = [name for name in Comparison.__annotations__ if name not in ("tokens", "windows", "max_logit_error")]
LOGITS = hnp.arrays(np.float32, (3, 17), elements=st.floats(-60, 60, width=32))


def random_logits(
    tokens: int, vocab: int, noise: float, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(seed)
    reference = (generator.standard_normal((tokens, vocab)) * 4).astype(np.float32)
    candidate = reference + (generator.standard_normal((tokens, vocab)) * noise).astype(np.float32)
    return reference, candidate, generator.integers(0, vocab, tokens)


def random_metrics(lengths: list[int], seed: int = 0) -> list[TokenMetrics]:
    return [compare_logits(*random_logits(length, 50, 0.3, seed + i)) for i, length in enumerate(lengths)]


@pytest.mark.parametrize("noise", [1e-3, 0.1, 3.0, 30.0])
def test_equals_torch_in_float64(noise: float) -> None:
    reference, candidate, targets = random_logits(40, 1000, noise)
    found = compare_logits(reference, candidate, targets)
    p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (reference, candidate))
    kl = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(found.kl, kl.numpy(), rtol=1e-9, atol=1e-13)
    next_p, next_q = (x[torch.arange(40), torch.from_numpy(targets)].numpy() for x in (p, q))
    np.testing.assert_allclose(found.reference_nll, -next_p, rtol=1e-12)
    np.testing.assert_allclose(found.candidate_nll, -next_q, rtol=1e-12)
    np.testing.assert_allclose(found.probability_change, np.exp(next_q) - np.exp(next_p), atol=1e-14)
    assert found.top1_agreement.tolist() == (p.argmax(-1) == q.argmax(-1)).double().tolist()
    error = np.linalg.norm((candidate - reference).astype(np.float64), axis=1)
    np.testing.assert_allclose(found.logit_error, error / np.linalg.norm(reference.astype(np.float64), axis=1), 1e-5)


def test_kl_of_two_known_distributions() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    found = compare_logits(np.log(p)[None].astype(np.float32), np.log(q)[None].astype(np.float32), np.array([2]))
    assert found.kl[0] == pytest.approx(0.25 * np.log(2), rel=1e-6)
    assert found.probability_change[0] == pytest.approx(0.25, rel=1e-6)


@given(LOGITS, LOGITS, st.integers(0, 16))
@settings(max_examples=60, deadline=None)
def test_kl_is_never_negative_and_zero_for_equal_logits(a: Any, b: Any, target: int) -> None:
    targets = np.full(3, target)
    assert (compare_logits(a, b, targets).kl >= 0).all()
    same = compare_logits(a, a, targets)
    assert (same.kl == 0).all()
    assert (same.probability_change == 0).all()
    assert (same.logit_error == 0).all()
    assert (same.top1_agreement == 1).all()


@given(LOGITS, LOGITS, st.integers(-64, 64), st.permutations(range(17)))
@settings(max_examples=40, deadline=None)
def test_shift_and_order_of_the_vocabulary_do_not_matter(a: Any, b: Any, shift: int, order: list[int]) -> None:
    a, b = np.round(a * 8) / 8, np.round(b * 8) / 8  # so that shifting is exact in float32
    targets = np.array([0, 5, 16])
    plain = compare_logits(a, b, targets)
    shifted = compare_logits(a, b + np.float32(shift), targets)
    permuted = compare_logits(a[:, order], b[:, order], np.argsort(order)[targets])
    for other in (shifted, permuted):
        np.testing.assert_allclose(other.kl, plain.kl, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.candidate_nll, plain.candidate_nll, rtol=1e-9, atol=1e-12)


def test_huge_logits_do_not_overflow() -> None:
    found = compare_logits(np.array([[3e4, 0]], np.float32), np.array([[0, 3e4]], np.float32), np.array([0]))
    assert found.kl[0] == found.candidate_nll[0] == 3e4


def test_not_a_number_stays_visible() -> None:
    found = compare_logits(np.array([[1, 2]], np.float32), np.array([[np.nan, 2]], np.float32), np.array([0]))
    assert np.isnan(found.kl[0])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError):
        compare_logits(np.zeros((2, 3), np.float32), np.zeros((1, 3), np.float32), np.zeros(2, np.int64))


def test_averages_are_those_of_all_tokens() -> None:
    windows = random_metrics([100, 300, 7])
    found, tokens = summarize(windows), TokenMetrics.concatenate(windows)
    assert (found.tokens, found.windows) == (407, 3)
    assert found.mean_kl.value == pytest.approx(tokens.kl.mean(), rel=1e-14)
    for name, q in (("median_kl", 0.5), ("p99_kl", 0.99), ("p999_kl", 0.999)):
        assert getattr(found, name).value == np.quantile(tokens.kl, q, method="inverted_cdf")
    assert found.top1_agreement.value == tokens.top1_agreement.mean()
    assert found.reference_perplexity.value == pytest.approx(np.exp(tokens.reference_nll.mean()), rel=1e-14)
    assert found.candidate_perplexity.value == pytest.approx(np.exp(tokens.candidate_nll.mean()), rel=1e-14)
    ratio = np.log(found.candidate_perplexity.value / found.reference_perplexity.value)
    assert found.log_perplexity_ratio.value == pytest.approx(ratio, abs=1e-12)
    assert found.rms_probability_change.value == pytest.approx(np.sqrt((tokens.probability_change**2).mean()))
    assert found.max_logit_error == tokens.logit_error.max()


@given(st.lists(st.integers(1, 200), min_size=5, max_size=12), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_intervals_contain_the_values(lengths: list[int], seed: int) -> None:
    found = summarize(random_metrics(lengths, seed))
    for name in ESTIMATES:
        estimate = getattr(found, name)
        assert estimate.low <= estimate.value <= estimate.high, name


def test_order_of_windows_does_not_change_the_values() -> None:
    windows = random_metrics([64, 128, 64, 200, 100, 64])
    found, reordered = summarize(windows), summarize(windows[::-1])
    for name in ESTIMATES:
        one, other = getattr(found, name), getattr(reordered, name)
        assert one.value == pytest.approx(other.value, rel=1e-12)
        assert one.low == pytest.approx(other.low, rel=0.1), name  # other draws of the same blocks
        assert one.high == pytest.approx(other.high, rel=0.1), name


def test_two_runs_are_equal() -> None:
    assert summarize(random_metrics([90] * 6)) == summarize(random_metrics([90] * 6))


def test_identical_models_have_no_distance_and_no_doubt() -> None:
    reference, _, targets = random_logits(400, 30, 0)
    found = summarize([compare_logits(reference, reference, targets)])
    zero = Estimate(0.0, 0.0, 0.0)
    assert found.mean_kl == found.p999_kl == found.log_perplexity_ratio == found.rms_probability_change == zero
    assert found.top1_agreement == Estimate(1.0, 1.0, 1.0)


def test_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    """Equal values within a block: the blocks are the only independent draws."""
    generator = np.random.default_rng(3)
    values = generator.standard_normal(400) ** 2
    ones = np.ones(BLOCK)
    windows = [TokenMetrics(value * ones, ones, ones, ones, 0 * ones, ones) for value in values]
    estimate = summarize(windows).mean_kl
    expected = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.1)


def test_too_little_text_has_no_interval() -> None:
    found = summarize(random_metrics([4 * BLOCK]))
    assert found.mean_kl.value > 0
    assert found.mean_kl.low is found.mean_kl.high is None
    assert summarize(random_metrics([4 * BLOCK + 1])).mean_kl.low is not None
