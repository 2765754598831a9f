"""What looks broken in an evaluated artifact, whatever was asked of it."""

from __future__ import annotations

import math

from q3edge.evaluation.distance.statistics import Comparison
from q3edge.evaluation.validation.results import CheckResult

MAX_PERPLEXITY_RATIO = 1.5


def check_finite(broken: int, passages: int) -> CheckResult:
    """Every passage had finite logits; the value is how many had not. They are in no average."""
    if not broken:
        return CheckResult("finite_logits", "pass", 0.0, 0.0, "all logits are finite")
    reason = f"logits are NaN or infinite in {broken} of {passages} items, which are in no average; export again"
    return CheckResult("finite_logits", "fail", float(broken), 0.0, reason)


def check_perplexity(overall: Comparison) -> CheckResult:
    """The candidate's perplexity is at most MAX_PERPLEXITY_RATIO times the reference's."""
    # Perplexities as far apart as e^700 would not be a finite number any more.
    ratio = math.exp(min(overall.log_perplexity_ratio.value, 700.0))
    reason = f"perplexity is {ratio:.3g} times the reference's, at most {MAX_PERPLEXITY_RATIO:g} is usual"
    return CheckResult(
        "perplexity_ratio", "pass" if ratio <= MAX_PERPLEXITY_RATIO else "fail", ratio, MAX_PERPLEXITY_RATIO, reason
    )
