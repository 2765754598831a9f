"""Checks for a broken artifact, the same for every evaluation."""

from __future__ import annotations

import math

from q3edge.evaluation.distance.statistics import Comparison
from q3edge.evaluation.validation.results import CheckResult

MAX_PERPLEXITY_RATIO = 1.5


def check_finite(broken: int, passages: int) -> CheckResult:
    """Check that every passage had finite logits; the value is how many had not, which are in no average."""
    reason = f"logits are NaN or infinite in {broken} of {passages} items, which are in no average; export again"
    return CheckResult.at_most("finite_logits", float(broken), 0.0, reason if broken else "all logits are finite")


def check_perplexity(overall: Comparison) -> CheckResult:
    """Check that the candidate's perplexity is at most MAX_PERPLEXITY_RATIO times the reference's."""
    # Perplexities as far apart as e^700 would not be a finite number any more.
    ratio = math.exp(min(overall.log_perplexity_ratio.value, 700.0))
    reason = f"perplexity is {ratio:.3g} times the reference's, at most {MAX_PERPLEXITY_RATIO:g} is usual"
    return CheckResult.at_most("perplexity_ratio", ratio, MAX_PERPLEXITY_RATIO, reason)
