"""Choosing the next token from logits: greedy, or temperature, then top-k, then top-p, then one random draw.

The filters keep exactly the tokens that transformers' TemperatureLogitsWarper, TopKLogitsWarper (ties with the k-th
score are kept) and TopPLogitsWarper (Holtzman et al., arXiv 1904.09751) keep. No full sort of the vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import InputError

_FIRST_CANDIDATES = 256  # how many top scores the search for the nucleus starts with
_COLUMNS = 1024  # makes the rows of a pass over the vocabulary long enough for vector instructions


class Sampler:
    """Draws tokens one after another; the same seed and logits give the same tokens."""

    def __init__(self, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int | None = None) -> None:
        """`temperature` 0 is greedy; `top_k` 0 and `top_p` 1 switch a filter off; no seed draws one from the system."""
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._random = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """The next token for logits [V]; InputError if they hold NaN."""
        best = int(logits.argmax())
        if math.isnan(logits[best]):  # argmax returns the first NaN
            raise InputError("the model's logits are NaN: its weights are damaged or overflow; export it again")
        if self.temperature == 0:
            return best
        tokens, probabilities = candidates(logits, self.temperature, self.top_k, self.top_p)
        cumulative = probabilities.cumsum()
        drawn = cumulative.searchsorted(self._random.random() * cumulative[-1], side="right")
        return int(tokens[min(int(drawn), len(tokens) - 1)])


def candidates(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Tokens that may be drawn from logits [V] and their probabilities, which sum to at most 1.

    Most probable first; in the vocabulary's order where no filter is on.
    """
    if 0 < top_k < logits.size:
        tokens = _top(logits, top_k)
        kept = logits[tokens]
        probabilities = _softmax_terms((kept - kept[0]) / np.float32(temperature))
        return _nucleus(tokens, probabilities / probabilities.sum(), top_p)
    scores = (logits - logits.max()) / np.float32(temperature)
    if top_p >= 1:
        probabilities = _softmax_terms(scores)
        return np.arange(scores.size), probabilities / probabilities.sum()
    total = float(np.exp(scores).sum(dtype=np.float64))
    count = _FIRST_CANDIDATES
    while True:  # enlarge until the candidates hold the nucleus
        tokens = _top(scores, count)
        probabilities = _softmax_terms(scores[tokens]) / total
        if len(tokens) == scores.size or probabilities.sum() > top_p:
            return _nucleus(tokens, probabilities, top_p)
        count *= 8


def _softmax_terms(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.exp(scores).astype(np.float64)  # exp in float64 would take six times as long


def _top(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest scores and of ties with the last, in falling order (ties: rising index)."""
    if count >= scores.size:
        return np.argsort(-scores, kind="stable")
    pool = np.flatnonzero(scores >= _reached(scores, count))
    values = scores[pool]
    order = np.argsort(-values, kind="stable")
    return pool[order[: np.count_nonzero(values >= values[order[count - 1]])]]


def _reached(scores: NDArray[np.float32], count: int) -> np.float32:
    """A value that at least `count` scores reach, and few more: found in one fast pass, where a partition takes ten.

    Of the maxima of at least 4 * count columns the count-th largest: a column that reaches it holds a score that does.
    """
    columns = max(4 * count, _COLUMNS)
    rows = scores.size // columns
    if rows < 2:
        return np.float32(-np.inf)
    maxima = scores[: rows * columns].reshape(rows, columns).max(0)
    reached: np.float32 = np.partition(maxima, columns - count)[columns - count]
    return reached


def _nucleus(
    tokens: NDArray[np.int64], probabilities: NDArray[np.float64], top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The shortest head whose probabilities reach `top_p`: a token stays while the mass before it is below top_p."""
    if top_p >= 1:
        return tokens, probabilities
    before = probabilities.cumsum() - probabilities
    kept = max(1, int(np.count_nonzero(before < top_p)))
    return tokens[:kept], probabilities[:kept]
