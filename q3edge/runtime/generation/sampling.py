"""Sampling of the next token from logits: greedy, or temperature, top-k, top-p, min-p, then one random draw.

The filters keep exactly the tokens that transformers' TemperatureLogitsWarper, TopKLogitsWarper (ties with the k-th
score are kept), TopPLogitsWarper (Holtzman et al., arXiv 1904.09751) and MinPLogitsWarper (Nguyen et al., arXiv
2407.01082) keep. No full sort of the vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import InputError, UsageError

_FIRST_CANDIDATES = 256  # how many top scores the search for the nucleus starts with
_COLUMNS = 1024  # makes the rows of a pass over the vocabulary long enough for vector instructions


class Sampler:
    """Sampler of one token after another; the same seed and logits give the same tokens."""

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        min_p: float = 0.0,
    ) -> None:
        """Configure sampling: `temperature` 0 is greedy; `top_k`, `min_p` 0 and `top_p` 1 are off; no seed: random."""
        self.temperature, self.top_k, self.top_p, self.min_p = temperature, top_k, top_p, min_p
        self._random = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token for logits float32 [V]; InputError if they hold NaN, UsageError if all are -inf."""
        if self.temperature == 0:
            best = int(logits.argmax())  # of the first NaN, if there is one
            _refuse_unusable(float(logits[best]))
            return best
        tokens, masses = candidates(logits, self.temperature, self.top_k, self.top_p, self.min_p)
        drawn = masses.searchsorted(self._random.random() * masses[-1], side="right")
        return int(tokens[min(int(drawn), len(tokens) - 1)])


def candidates(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Candidates that may be drawn from logits float32 [V], with running sums of their unnormalized probability.

    Most likely first where a filter keeps few; else in an order that depends on the logits alone. InputError if any
    logit is NaN, UsageError if all are -inf.
    """
    if 0 < top_k < logits.size:
        tokens, kept = largest(logits, top_k)
        _refuse_unusable(float(kept[0]))
        scores = (kept - kept[0]) / np.float32(temperature)
        masses = _masses(scores)
        return _likely(*_nucleus(tokens, masses, top_p, float(masses[-1])), min_p)
    best = logits.max()
    _refuse_unusable(float(best))
    scores = (logits - best) / np.float32(temperature)
    weights = np.exp(scores)  # in float64 it would take six times as long
    if top_p < 1:
        return _likely(*_wide_nucleus(scores, weights, top_p), min_p)
    tokens = np.arange(scores.size) if min_p == 0 else np.flatnonzero(weights >= min_p)
    return tokens, weights[tokens].cumsum(dtype=np.float64)


def _wide_nucleus(
    scores: NDArray[np.float32], weights: NDArray[np.float32], top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nucleus of the whole vocabulary. A few candidates hold it almost always; else its edge is found by halving."""
    total = float(weights.sum(dtype=np.float64))
    tokens, kept = largest(scores, _FIRST_CANDIDATES)
    masses = _masses(kept)
    if len(tokens) == scores.size or masses[-1] > top_p * total:
        return _nucleus(tokens, masses, top_p, total)
    sure: list[NDArray[np.int64]] = []  # tokens that are in it
    before, pool = 0.0, np.arange(scores.size)  # mass of those; tokens among which its edge lies
    while len(pool) > _FIRST_CANDIDATES:
        half = len(pool) // 2
        pool = pool[np.argpartition(-scores[pool], half)]
        mass = float(weights[pool[:half]].sum(dtype=np.float64))
        if before + mass >= top_p * total:
            pool = pool[:half]
        else:
            sure.append(pool[:half])
            before, pool = before + mass, pool[half:]
    pool = pool[np.argsort(-scores[pool], kind="stable")]
    kept_count = int((before + weights[pool].cumsum(dtype=np.float64)).searchsorted(top_p * total)) + 1
    nucleus = np.concatenate([*sure, pool[:kept_count]])
    return nucleus, weights[nucleus].cumsum(dtype=np.float64)


def _likely(
    tokens: NDArray[np.int64], masses: NDArray[np.float64], min_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Those with at least `min_p` of the most likely token's mass, which is 1."""
    if min_p == 0:
        return tokens, masses
    alone = np.diff(masses, prepend=0.0)
    kept = alone >= min_p
    return tokens[kept], alone[kept].cumsum()


def _refuse_nan(score: float) -> None:
    if math.isnan(score):
        raise InputError("the model's logits are NaN: its weights are damaged or overflow; export it again")


def _refuse_unusable(best: float) -> None:
    _refuse_nan(best)
    if best == -math.inf:
        raise UsageError("no token is left to choose: the settings suppress all; suppress fewer")


def _masses(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Running sums of exp(scores)."""
    return np.exp(scores).cumsum(dtype=np.float64)  # exp in float64 would take six times as long


def largest(scores: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices and values of the `count` largest scores and of ties with the last, descending (ties by rising index).

    InputError if any score is NaN.
    """
    pool = np.flatnonzero(~(scores < _reached(scores, count)))  # a NaN is in it
    values = scores[pool]
    order = np.argsort(-values, kind="stable")  # NaN last
    _refuse_nan(float(values[order[-1]]))
    values = values[order]
    kept = int(np.count_nonzero(values >= values[count - 1])) if count < len(values) else len(values)
    return pool[order[:kept]], values[:kept]


def _reached(scores: NDArray[np.float32], count: int) -> np.float32:
    """A value that at least `count` scores reach, and few more: found in a tenth of the time of a partition.

    It is the count-th largest of the maxima of at least 4 * count columns; a column that reaches it has such a score.
    """
    columns = max(4 * count, _COLUMNS)
    rows = scores.size // columns
    if rows < 2:
        return np.float32(-np.inf)
    maxima = scores[: rows * columns].reshape(rows, columns).max(0)
    reached: np.float32 = np.partition(maxima, columns - count)[columns - count]
    return reached


def _nucleus(
    tokens: NDArray[np.int64], masses: NDArray[np.float64], top_p: float, total: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Shortest prefix with at least `top_p` of `total`: a token stays while those before it have less."""
    if top_p >= 1:
        return tokens, masses
    kept = int(masses.searchsorted(top_p * total)) + 1
    return tokens[:kept], masses[:kept]
