"""Averages with confidence intervals from the bootstrap: of per-token metrics and of other values.

A resampling unit is what is drawn as a whole. Errors of neighbouring tokens are correlated, so it is a block of 64
neighbours, not a token (block bootstrap, Künsch 1989). Every number is computed from the same draws, so ratios of both
models are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from q3edge.evaluation.distance.metrics import Float64Array, TokenMetrics

CONFIDENCE = 0.95
RESAMPLES = 1000
BLOCK = 64
_NORMAL_975 = NormalDist().inv_cdf(0.975)
MIN_BLOCKS = 5  # fewer say nothing about how they vary


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % confidence interval; low and high are None where there is too little data for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, eq=False)
class BootstrapSamples:
    """A value and its bootstrap samples, for numbers that are computed from several such values.

    samples: [RESAMPLES], NaN where a sample gives no value; empty where there is too little data.
    """

    value: float
    samples: Float64Array

    def estimate(self) -> Estimate:
        """The value with its percentile interval; without one where half of the samples or more give no value."""
        valid = self.samples[np.isfinite(self.samples)]
        return _estimate(self.value, valid if 2 * len(valid) > len(self.samples) else valid[:0])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of a candidate with a reference over `tokens` scored tokens of `windows` windows.

    KL in nats; top1_agreement as a fraction; perplexities per token; log_perplexity_ratio = ln(candidate's /
    reference's); rms_probability_change of the token that really follows ("RMS delta p" in llama.cpp).
    """

    tokens: int
    windows: int
    mean_kl: Estimate
    median_kl: Estimate
    p99_kl: Estimate
    p999_kl: Estimate
    top1_agreement: Estimate
    reference_perplexity: Estimate
    candidate_perplexity: Estimate
    log_perplexity_ratio: Estimate
    rms_probability_change: Estimate
    max_logit_error: float


def summarize(windows: Sequence[TokenMetrics]) -> Comparison:
    """Estimates over all positions of the windows (at least one, none empty); percentile intervals, deterministic."""
    tokens = TokenMetrics.concatenate(windows)
    draws = Bootstrap(block_ids([len(window) for window in windows]))
    median, p99, p999 = draws.quantiles(tokens.kl, (0.5, 0.99, 0.999))
    return Comparison(
        tokens=len(tokens),
        windows=len(windows),
        mean_kl=draws.mean(tokens.kl),
        median_kl=median,
        p99_kl=p99,
        p999_kl=p999,
        top1_agreement=draws.mean(tokens.top1_agreement),
        reference_perplexity=draws.mean(tokens.reference_nll, np.exp),
        candidate_perplexity=draws.mean(tokens.candidate_nll, np.exp),
        log_perplexity_ratio=draws.mean(tokens.candidate_nll - tokens.reference_nll),
        rms_probability_change=draws.mean(np.square(tokens.probability_change), np.sqrt),
        max_logit_error=float(tokens.logit_error.max()),
    )


def wilson(correct: Sequence[bool]) -> Estimate:
    """Fraction of `correct` (at least one) that is true, with its 95 % score interval (Wilson 1927)."""
    total, share = len(correct), sum(correct) / len(correct)
    z2 = _NORMAL_975**2
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _NORMAL_975 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    low, high = (0.0 if share == 0 else center - half), (1.0 if share == 1 else center + half)  # no rounding there
    return Estimate(share, max(0.0, low), min(1.0, high))


def weighted_sum(parts: Sequence[BootstrapSamples], weights: Sequence[float]) -> BootstrapSamples:
    """Weighted sum of independently drawn parts; without samples if one part has none."""
    value = sum(weight * part.value for weight, part in zip(weights, parts, strict=True))
    if not all(len(part.samples) for part in parts):
        return BootstrapSamples(value, np.empty(0))
    return BootstrapSamples(value, np.sum([weight * part.samples for weight, part in zip(weights, parts)], axis=0))


def block_ids(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Block of every position, int64 [T]; a block is at most BLOCK neighbours of one window."""
    ids, first = [], 0
    for length in lengths:
        ids.append(first + np.arange(length) // BLOCK)
        first += -(-length // BLOCK)
    return np.concatenate(ids)


class Bootstrap:
    """Bootstrap samples of resampling units: how often each unit of the data occurs in each of RESAMPLES samples.

    Fewer than MIN_BLOCKS units give no samples. What is drawn with different seeds varies independently.
    """

    def __init__(self, blocks: NDArray[np.int64], seed: int = 0) -> None:
        """Draw the samples. `blocks` int64 [T]: the unit, 0 and up without gaps, that each value belongs to."""
        self._blocks = blocks
        self._sizes = np.bincount(blocks)
        count = len(self._sizes)
        resamples = RESAMPLES if count >= MIN_BLOCKS else 0
        generator = np.random.default_rng(seed)
        self._weights = generator.multinomial(count, np.full(count, 1 / count), resamples)  # [resamples, blocks]

    def mean(
        self, values: Float64Array, transform: Callable[[Float64Array], Float64Array] = lambda mean: mean
    ) -> Estimate:
        """Mean over all values, transformed by `transform`, with its interval."""
        return self.resampled_mean(values, transform).estimate()

    def resampled_mean(
        self, values: Float64Array, transform: Callable[[Float64Array], Float64Array]
    ) -> BootstrapSamples:
        """Mean over all values, transformed by `transform`, with its bootstrap samples."""
        return BootstrapSamples(float(transform(values.mean())), transform(self._means(values)))

    def resampled_ratio(self, values: Float64Array, by: Float64Array) -> BootstrapSamples | None:
        """Ratio of two means from the same draws, with its bootstrap samples; None where the mean of `by` is 0."""
        if not by.mean():
            return None
        below = self._means(by)
        return BootstrapSamples(
            float(values.mean() / by.mean()), self._means(values) / np.where(below == 0, np.nan, below)
        )

    def _means(self, values: Float64Array) -> Float64Array:
        """Mean in every sample, [RESAMPLES], or [0] without samples."""
        return (self._weights @ np.bincount(self._blocks, values)) / (self._weights @ self._sizes)

    def quantiles(self, values: Float64Array, fractions: Sequence[float]) -> list[Estimate]:
        """Quantiles: for each of `fractions` the smallest value that at least that share do not exceed."""
        order = np.argsort(values, kind="stable")
        ranked, blocks = values[order], self._blocks[order]
        samples = ranked[np.array([_weighted_ranks(weights[blocks], fractions) for weights in self._weights], int)]
        points = ranked[_weighted_ranks(np.ones(len(values), np.int64), fractions)]
        by_fraction = samples.reshape(-1, len(fractions)).T
        return [_estimate(float(point), found) for point, found in zip(points, by_fraction, strict=True)]


def _weighted_ranks(weights: NDArray[np.int64], fractions: Sequence[float]) -> NDArray[np.intp]:
    cumulative = np.cumsum(weights)
    ranks: NDArray[np.intp] = np.searchsorted(cumulative, cumulative[-1] * np.array(fractions))
    return ranks


def _estimate(value: float, samples: Float64Array) -> Estimate:
    if not len(samples):
        return Estimate(value, None, None)
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))
