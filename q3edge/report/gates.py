"""`Gates`: limits of accuracy, and the checks of a model against them."""

from __future__ import annotations

from dataclasses import dataclass

from q3edge.defaults import MAX_KL, MIN_RECOVERY
from q3edge.evaluation.distance.kl_names import KL_WORDS, KLName
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.validation.results import CheckResult


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits of accuracy. min_recovery in percent, against the interval's lower end; max_kl in nats, against the mean.

    None sets no limit. The caller says which KL is compared with max_kl, and every result names it.
    """

    min_recovery: float | None = MIN_RECOVERY
    max_kl: float | None = MAX_KL

    def rule(self, kl: KLName) -> str:
        """Text of the gates in words, for that KL."""
        parts = []
        if self.min_recovery is not None:
            parts.append(f"a recovery whose 95 % interval lies at or above {self.min_recovery:g} %")
        if self.max_kl is not None:
            parts.append(f"a {KL_WORDS[kl]} of at most {self.max_kl:g} nats")
        return " and ".join(parts) or "no demand on accuracy"

    def judge(self, recovery: Estimate | None, mean_kl: Estimate | None, kl: KLName) -> tuple[CheckResult, ...]:
        """Check each gate that is set; "skipped" where its number was not measured. kl: what mean_kl is."""
        results = []
        if self.max_kl is not None:
            results.append(_judge_kl(mean_kl, self.max_kl, kl))
        if self.min_recovery is not None:
            results.append(_judge_recovery(recovery, self.min_recovery))
        return tuple(results)

    def undecided(self, recovery: Estimate | None, mean_kl: Estimate | None, kl: KLName) -> bool:
        """Whether more items could make a model pass that fails: only the interval of its recovery is too wide."""
        failed = [found.name for found in self.judge(recovery, mean_kl, kl) if found.status != "pass"]
        if failed != ["min_recovery"] or recovery is None or self.min_recovery is None:
            return False
        return recovery.low is None or recovery.value >= self.min_recovery


def _judge_kl(mean_kl: Estimate | None, limit: float, kl: KLName) -> CheckResult:
    name = f"max_{kl}"
    if mean_kl is None:
        return CheckResult(name, "skipped", None, limit, f"{KL_WORDS[kl]} was not measured")
    reason = f"{KL_WORDS[kl]} {mean_kl.value:.3g} nats, at most {limit:g} asked for"
    return CheckResult.at_most(name, mean_kl.value, limit, reason)


def _judge_recovery(recovery: Estimate | None, limit: float) -> CheckResult:
    if recovery is None:
        return CheckResult("min_recovery", "skipped", None, limit, "recovery was not measured")
    if recovery.low is None:
        reason = f"recovery {recovery.value:.1f} % has no interval: too little text to tell"
        return CheckResult("min_recovery", "fail", None, limit, reason)
    reason = (
        f"recovery {recovery.value:.1f} %, at least {recovery.low:.1f} % with 95 % confidence, "
        f"at least {limit:g} % asked for"
    )
    return CheckResult("min_recovery", "pass" if recovery.low >= limit else "fail", recovery.low, limit, reason)
