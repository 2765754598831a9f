"""Sampling against transformers' own filters and a naive draw."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from q3edge.errors import InputError, UsageError
from q3edge.runtime.generation.sampling import Sampler, candidates


def naive(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """Probabilities by token, from transformers' warpers, which sort the whole vocabulary."""
    scores = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None].double())
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    probabilities = torch.softmax(scores[0], -1).numpy()
    return {int(token): float(probabilities[token]) for token in np.flatnonzero(probabilities)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 2, 7, 300, 5000, 20_000]),
    scale=st.floats(0.0001, 20),
    temperature=st.floats(0.1, 5),
    top_k=st.sampled_from([0, 1, 2, 20, 400, 10_000]),
    top_p=st.sampled_from([0.01, 0.3, 0.8, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.9, 1.0]),
)
def test_candidates_equal_transformers(
    seed: int, size: int, scale: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    tokens, masses = candidates(logits, temperature, top_k, top_p, min_p)
    found = dict(zip(tokens.tolist(), (np.diff(masses, prepend=0) / masses[-1]).tolist()))
    expected = naive(logits, temperature, top_k, top_p, min_p)
    # float32 scores underflow where the naive float64 ones do not; such tokens are never drawn.
    differing = {token for token in found.keys() ^ expected.keys() if found.get(token, expected.get(token, 0)) > 1e-9}
    # One token, whose mass before it is within rounding of top_p, may fall on either side.
    assert len(differing) <= (top_p < 1) + (min_p > 0)
    tolerance = 1e-4 + sum(found.get(token, expected.get(token, 0)) for token in differing) * 1.1
    for token in found.keys() & expected.keys():
        assert found[token] == pytest.approx(expected[token], rel=tolerance, abs=1e-9)


def test_ties_with_the_kth_score_are_kept() -> None:
    tokens, _ = candidates(np.array([1, 3, 2, 2, 0], np.float32), 1.0, 2, 1.0)
    assert tokens.tolist() == [1, 2, 3]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 400), top_k=st.integers(1, 700))
def test_the_largest_of_a_large_vocabulary_with_many_ties(seed: int, levels: int, top_k: int) -> None:
    logits = np.random.default_rng(seed).integers(0, levels, 20_000).astype(np.float32)
    tokens, _ = candidates(logits, 1.0, top_k, 1.0)
    order = np.argsort(-logits, kind="stable")
    expected = order[: np.count_nonzero(logits >= logits[order[top_k - 1]])]
    np.testing.assert_array_equal(tokens, expected)


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(temperature=1.0, top_p=0.9, seed=7)
    counts = np.bincount([sampler(logits) for _ in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.012)


def test_the_same_seed_gives_the_same_tokens() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 1000)).astype(np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(1.0, 50, 0.95, seed)
        return [sampler(row) for row in rows]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_greedy_takes_the_first_maximum() -> None:
    assert Sampler()(np.array([0, 5, 5, 1], np.float32)) == 1


def test_extreme_logits_do_not_overflow() -> None:
    assert Sampler(0.001, 0, 0.9, 0)(np.array([-1e30, 1e30, 1e30 / 2], np.float32)) == 1
    assert Sampler(1.0, 3, 1.0, 0)(np.array([-np.inf, 0, -np.inf, -np.inf], np.float32)) == 1


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0.7, top_k=20), Sampler(0.7, top_p=0.9), Sampler(0.7)])
@pytest.mark.parametrize(("size", "place"), [(3, 1), (20_000, 7), (20_000, -1)])
def test_nan_logits_are_an_error(sampler: Sampler, size: int, place: int) -> None:
    logits = np.arange(size, dtype=np.float32)
    logits[place] = np.nan
    with pytest.raises(InputError, match="logits are NaN"):
        sampler(logits)


def test_l24_a_nearly_flat_nucleus_is_found_without_sorting_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = (np.random.default_rng(5).standard_normal(20_000) * 1e-3).astype(np.float32)
    longest = 0
    argsort = np.argsort

    def watched(values: np.ndarray, kind: Literal["stable"]) -> np.ndarray:
        nonlocal longest
        longest = max(longest, len(values))
        return argsort(values, kind=kind)

    monkeypatch.setattr("q3edge.runtime.generation.sampling.np.argsort", watched)
    tokens, masses = candidates(logits, 1.0, 0, 0.9)
    order = argsort(-logits, kind="stable")
    expected = order[: np.searchsorted(np.exp(logits[order]).cumsum(dtype=np.float64) / np.exp(logits).sum(), 0.9) + 1]
    assert abs(len(tokens) - len(expected)) <= 1
    assert len(set(tokens.tolist()) ^ set(expected.tolist())) <= 1
    assert (np.diff(masses) > 0).all()
    assert longest < 5000


def test_settings_that_suppress_everything_are_an_error() -> None:
    nothing = np.full(400, -np.inf, np.float32)
    for sampler in (Sampler(), Sampler(1.0), Sampler(1.0, 20), Sampler(1.0, 0, 0.9)):
        with pytest.raises(UsageError, match="no token is left to choose"):
            sampler(nothing)
