"""Verdict on a comparison with the float model in words: one sentence from the mean KL and top-1 agreement."""

from __future__ import annotations

from dataclasses import dataclass

from q3edge.defaults import MAX_KL
from q3edge.evaluation.distance.statistics import Comparison

_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits of a grade: mean KL in nats, and the share of tokens at which the models agree, must both be kept."""

    words: str
    max_kl: float
    min_agreement: float


_GRADES = (
    _Limits("as good as float", 0.01, 0.95),
    _Limits("as good as float for chat", MAX_KL, 0.9),
    _Limits("worse than float, for simple tasks", 0.2, 0.8),
    _Limits("much worse than float", 1.0, 0.5),
)
_GOOD = _GRADES[:2]
_LAST = "unusable"
_CALIBRATED = "take more bits (--format int8) or smaller groups, or calibrate on text closer to its use"
_NOT_CALIBRATED = "calibrate it (--method gptq) or take more bits"


def verdict(overall: Comparison, *, calibrated: bool | None = None) -> str:
    """Verdict in words. calibrated: whether the weights were; known, a poor grade is followed by what to do."""
    limits = _limits(overall)
    sentence = f"{limits.words if limits else _LAST}: {_share(1 - overall.top1_agreement.value)}"
    if calibrated is None or limits in _GOOD:
        return sentence
    return f"{sentence}; {_CALIBRATED if calibrated else _NOT_CALIBRATED}"


def _limits(overall: Comparison) -> _Limits | None:
    kl, agreement = overall.mean_kl.value, overall.top1_agreement.value
    return next((limits for limits in _GRADES if kl <= limits.max_kl and agreement >= limits.min_agreement), None)


def _share(lost: float) -> str:
    """Share of tokens at which another one becomes the likeliest, in words."""
    if lost <= 0:
        return "it loses no token"
    if lost >= 0.4:
        return f"it loses {100 * lost:.0f} of 100 tokens"
    one_in = round(1 / lost)
    number = _NUMBERS[one_in - 2] if one_in <= 10 else f"{one_in}"
    return f"it loses one token in {number}"
