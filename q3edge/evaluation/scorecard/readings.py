"""`Reading`: comparison of two models that read one passage side by side. `slices` averages readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.evaluation.distance.chain import NonFiniteLogitsError, compare_chunk, side_by_side
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.streams import LogitsChunks
from q3edge.evaluation.scorecard.passages import Passage

TOP = 5  # most likely tokens that an example shows
NextTokens = tuple[tuple[int, float], ...]  # (token id, probability), most likely first


@dataclass(frozen=True, slots=True)
class Place:
    """Position with the largest KL in a passage, `kl` nats after input `position`, and the models' TOP tokens there."""

    position: int
    kl: float
    reference_next: NextTokens
    candidate_next: NextTokens


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Comparison of two models on one passage. metrics: of every token of the window. reference_choice,
    candidate_choice: the index of the letter that a model finds most likely; None where there are no choices.
    """

    metrics: TokenMetrics
    worst: Place
    reference_choice: int | None = None
    candidate_choice: int | None = None


def read_passage(passage: Passage, logits: Sequence[LogitsChunks]) -> Reading | None:
    """Compare the reference's and the candidate's logits on a passage; None where some are NaN or infinite."""
    parts: list[TokenMetrics] = []
    worst: Place | None = None
    choices: tuple[int | None, int | None] = (None, None)
    try:
        for start, (expected, found) in side_by_side(logits):
            metrics = compare_chunk(passage.window, start, expected, found)
            at = int(metrics.kl.argmax())
            if worst is None or metrics.kl[at] > worst.kl:
                worst = Place(start + at, float(metrics.kl[at]), _top_tokens(expected[at]), _top_tokens(found[at]))
            if passage.letters and start <= passage.first < start + len(expected):
                letters, row = list(passage.letters), passage.first - start
                choices = int(expected[row, letters].argmax()), int(found[row, letters].argmax())
            parts.append(metrics)
            del expected, found  # else their memory is taken while the next are computed
    except NonFiniteLogitsError:
        return None
    assert worst is not None, "a window has at least one token"
    return Reading(TokenMetrics.concatenate(parts), worst, *choices)


def _top_tokens(logits: NDArray[np.float32]) -> NextTokens:
    """The TOP most likely tokens of logits [V], equal ones by id."""
    values = logits.astype(np.float64)
    values = np.exp(values - values.max())
    values /= values.sum()
    top = np.argpartition(-values, min(TOP, len(values) - 1))[:TOP]
    return tuple((int(token), float(values[token])) for token in sorted(top, key=lambda token: (-values[token], token)))
