"""The verdict on a build in words: decided by KL and top-1 agreement together, the worse of the two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.statistics import Comparison, Estimate, summarize
from q3edge.evaluation.validation.verdict import verdict

EMPTY = summarize([TokenMetrics(*np.ones((len(TokenMetrics.__dataclass_fields__), 8)))])


def compared(kl: float, agreement: float) -> Comparison:
    return replace(EMPTY, mean_kl=Estimate(kl, None, None), top1_agreement=Estimate(agreement, None, None))


@pytest.mark.parametrize(
    ("kl", "agreement", "expected"),
    [
        (0.0, 1.0, "as good as float: it loses no token"),
        (0.004, 0.98, "as good as float: it loses one token in 50"),
        (0.004, 0.94, "as good as float for chat: it loses one token in 17"),
        (0.05, 0.9, "as good as float for chat: it loses one token in ten"),
        (0.051, 0.99, "worse than float, for simple tasks: it loses one token in 100"),
        (0.3, 0.67, "much worse than float: it loses one token in three"),
        (0.3, 0.6, "much worse than float: it loses 40 of 100 tokens"),
        (0.9, 0.52, "much worse than float: it loses 48 of 100 tokens"),
        (0.01, 0.4, "unusable: it loses 60 of 100 tokens"),
        (7.0, 0.0, "unusable: it loses 100 of 100 tokens"),
        (float("nan"), 1.0, "unusable: it loses no token"),
    ],
)
def test_u13_verdict_in_words(kl: float, agreement: float, expected: str) -> None:
    assert verdict(compared(kl, agreement)) == expected


def test_u13_a_poor_verdict_says_what_to_do() -> None:
    poor, good = compared(0.3, 0.67), compared(0.02, 0.95)
    assert verdict(poor, calibrated=False).endswith("in three; calibrate it (--method gptq) or take more bits")
    assert "; take more bits (--format int8)" in verdict(poor, calibrated=True)
    assert {verdict(good, calibrated=known) for known in (None, True, False)} == {verdict(good)}
