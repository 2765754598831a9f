"""Readings -> `Slice`s and the recovery score, with paired bootstrap intervals.

Questions are drawn as a whole, texts in blocks of 64 neighbouring tokens as in `statistics`; both models' scores come
from the same draws, so that what is hard for both cancels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from q3edge.areas import AREA_WEIGHTS
from q3edge.artifact import Notice
from q3edge.evaluation.distance.metrics import Float64Array
from q3edge.evaluation.distance.statistics import (
    Bootstrap,
    BootstrapSamples,
    Estimate,
    block_ids,
    summarize,
    weighted_sum,
    wilson,
)
from q3edge.evaluation.scorecard.passages import Passage
from q3edge.evaluation.scorecard.readings import Reading
from q3edge.evaluation.scorecard.scorecard import Histogram, Kind, Metric, Slice
from q3edge.evaluation.suites.suite import LETTERS

# Half decades of nats, with a first bin from 0 for tokens on which the models agree but for rounding.
_EDGES = (0.0, *(float(f"{10.0 ** (half / 2):.3g}") for half in range(-12, 4)))


@dataclass(frozen=True, slots=True, eq=False)
class ReadPassage:
    """A passage and both models' reading of it."""

    passage: Passage
    reading: Reading


@dataclass(frozen=True, slots=True, eq=False)
class AreaScore:
    """A slice, and its recovery in percent with its bootstrap samples."""

    slice: Slice
    recovery: BootstrapSamples | None


def slices(
    passages: Sequence[ReadPassage], key: Callable[[Passage], str], answered: Mapping[str, AreaScore] | None = None
) -> dict[str, AreaScore]:
    """A slice for every value of `key`, in order of appearance; `answered`: scores that replace those of its questions.

    Questions and texts are scored apart, and the kind that recovers less stands for both.
    """
    names = dict.fromkeys(key(found.passage) for found in passages)
    return {
        name: _slice([found for found in passages if key(found.passage) == name], (answered or {}).get(name))
        for name in names
    }


def kind_slices(passages: Sequence[ReadPassage]) -> dict[str, AreaScore]:
    """A slice of all questions and one of all texts; empty where the items are of one kind."""
    found = slices(passages, _kind)
    return found if len(found) > 1 else {}


def _kind(passage: Passage) -> Kind:
    return "texts" if passage.item.kind == "text" else "questions"


def _slice(passages: Sequence[ReadPassage], answered: AreaScore | None) -> AreaScore:
    inside: dict[Kind, list[ReadPassage]] = {}
    for found in passages:
        inside.setdefault(_kind(found.passage), []).append(found)
    parts = {kind: _scored_alike(kind, found) for kind, found in inside.items()}
    if answered is not None:
        parts["questions"] = answered
    worse = min(parts.values(), key=_recovered)
    comparison = summarize([found.reading.metrics for found in passages])
    items = sum(part.slice.items for part in parts.values())
    return AreaScore(replace(worse.slice, items=items, comparison=comparison), worse.recovery)


def _recovered(part: AreaScore) -> float:
    return part.slice.recovery.value if part.slice.recovery else math.inf


def recovery_score(areas: Mapping[str, AreaScore]) -> tuple[Estimate | None, dict[str, float], tuple[Notice, ...]]:
    """The areas' recoveries averaged with AREA_WEIGHTS; the weights used, of sum 1; and what did not count.

    An area counts with at most 100: text that a damaged model happens to find more likely than the reference, such as
    text in a language that neither knows, does not offset a loss elsewhere.
    """
    counted = {
        name: (_at_most_100(found.recovery), AREA_WEIGHTS[name])
        for name, found in areas.items()
        if name in AREA_WEIGHTS and found.recovery is not None
    }
    ignored = [name for name in areas if name not in counted]
    notices: tuple[Notice, ...] = ()
    if ignored:
        detail = (
            f"areas without a weight, or where the reference scores 0, do not count in recovery: {', '.join(ignored)}"
        )
        notices = (Notice("areas-not-counted", len(ignored), detail),)
    if not counted:
        return None, {}, notices
    recoveries, weights = zip(*counted.values())
    # Divided last: whole weights keep a recovery of exactly 100 in every area exactly 100.
    total, added = sum(weights), weighted_sum(recoveries, weights)
    recovery = BootstrapSamples(added.value / total, added.samples / total).estimate()
    if recovery.high is not None:  # cut samples lie below the value where several areas are near 100
        recovery = replace(recovery, high=max(recovery.high, recovery.value))
    return recovery, {name: weight / total for name, (_, weight) in counted.items()}, notices


def _at_most_100(recovery: BootstrapSamples) -> BootstrapSamples:
    return BootstrapSamples(min(recovery.value, 100.0), np.minimum(recovery.samples, 100.0))


def histogram(passages: Sequence[ReadPassage]) -> Histogram:
    """Histogram of all tokens of all passages by their KL."""
    values = np.concatenate([found.reading.metrics.kl for found in passages])
    bins = np.clip(np.searchsorted(_EDGES, values, side="right") - 1, 0, len(_EDGES) - 2)
    return Histogram(_EDGES, tuple(np.bincount(bins, minlength=len(_EDGES) - 1).tolist()))


def _scored_alike(kind: Kind, passages: Sequence[ReadPassage]) -> AreaScore:
    # The same items are drawn in the same way wherever they occur, others independently of them.
    seed = zlib.crc32("".join(f"{found.passage.suite}:{found.passage.item.id}\n" for found in passages).encode())
    metric: Metric = "accuracy" if all(found.passage.letters for found in passages) else "likelihood"
    scores = _accuracy(passages, seed) if metric == "accuracy" else _likelihood(passages, seed)
    return area_score(len(passages), metric, kind, scores)


def area_score(items: int, metric: Metric, kind: Kind, scores: Scores) -> AreaScore:
    """A slice with these scores, and its recovery; no tokens are compared."""
    recovery = scores.recovery.estimate() if scores.recovery else None
    return AreaScore(Slice(items, metric, kind, scores.reference, scores.candidate, recovery, None), scores.recovery)


@dataclass(frozen=True, slots=True)
class Scores:
    """Both models' scores, and the candidate's recovery in percent; None where the reference scores 0."""

    reference: Estimate
    candidate: Estimate
    recovery: BootstrapSamples | None


def accuracy_scores(by_reference: Sequence[bool], by_candidate: Sequence[bool], seed: int) -> Scores:
    """Scores of both models from which items each got right, in the same order."""
    draws = Bootstrap(np.arange(len(by_reference)), seed)
    recovery = draws.resampled_ratio(np.array(by_candidate, np.float64), np.array(by_reference, np.float64))
    return Scores(wilson(by_reference), wilson(by_candidate), _percent(recovery))


def _accuracy(passages: Sequence[ReadPassage], seed: int) -> Scores:
    right = [LETTERS.index(found.passage.item.final) for found in passages]
    by_reference = [found.reading.reference_choice == letter for found, letter in zip(passages, right)]
    by_candidate = [found.reading.candidate_choice == letter for found, letter in zip(passages, right)]
    return accuracy_scores(by_reference, by_candidate, seed)


def _likelihood(passages: Sequence[ReadPassage], seed: int) -> Scores:
    draws = Bootstrap(_units(passages), seed)
    reference = np.concatenate([_scored(found, found.reading.metrics.reference_nll) for found in passages])
    candidate = np.concatenate([_scored(found, found.reading.metrics.candidate_nll) for found in passages])
    return Scores(
        draws.mean(reference, _probability),
        draws.mean(candidate, _probability),
        _percent(draws.resampled_mean(candidate - reference, _probability)),
    )


def _units(passages: Sequence[ReadPassage]) -> NDArray[np.int64]:
    """Resampling unit of each scored token, int64 [T]: its question, or its block of a text."""
    ids, first = [], 0
    for found in passages:
        length = found.passage.stop - found.passage.first
        unit = block_ids([length]) if found.passage.item.kind == "text" else np.zeros(length, np.int64)
        ids.append(first + unit)
        first += int(unit[-1]) + 1
    return np.concatenate(ids)


def _scored(found: ReadPassage, values: Float64Array) -> Float64Array:
    return values[found.passage.first : found.passage.stop]


def _probability(nll: Float64Array) -> Float64Array:
    return np.exp(-nll)


def _percent(ratio: BootstrapSamples | None) -> BootstrapSamples | None:
    return ratio and BootstrapSamples(100 * ratio.value, 100 * ratio.samples)
