"""Check of a model whose scales could not all be stored: harmless where the weights lost are next to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from q3edge.artifact import Manifest
from q3edge.defaults import MAX_KL
from q3edge.evaluation.distance.statistics import Comparison
from q3edge.evaluation.validation.results import CheckResult

LOST_SCALES = "lost_scales"  # in a manifest's metrics: of each tensor with lost groups: lost, groups, share
MAX_SHARE = 0.01  # of a tensor's squared weights
_SHOWN = 3


def check_lost_scales(manifest: Manifest, overall: Comparison) -> list[CheckResult]:
    """Check that no tensor lost more than MAX_SHARE of its squares, or that the mean KL is small all the same.

    The value is the largest share. Nothing is checked where no scale was out of range.
    """
    lost: Mapping[str, Any] = manifest.metrics.get(LOST_SCALES, {})
    if not lost:
        return []
    share, kl = max(found["share"] for found in lost.values()), overall.mean_kl.value
    reason = f"scales that cannot be stored, {worst_tensors(lost)}"
    result = CheckResult.at_most("lost_scales", share, MAX_SHARE, reason)
    if result.status == "pass":
        return [result]
    if kl <= MAX_KL:
        return [CheckResult("lost_scales", "pass", share, None, f"{reason}; a KL of {kl:.3g} nats allows it")]
    return [CheckResult("lost_scales", "fail", share, MAX_SHARE, f"{reason}; keep these float in a recipe")]


def worst_tensors(lost: Mapping[str, Any]) -> str:
    """Name the tensors whose lost groups held the largest shares of the squared weights."""
    ordered = sorted(lost.items(), key=lambda item: (-item[1]["share"], -item[1]["lost"], item[0]))
    shown = [
        f"{name.removesuffix('.weight')} ({found['lost']} of {found['groups']} groups, {100 * found['share']:.3g} % of "
        "its squared weights)"
        for name, found in ordered[:_SHOWN]
    ]
    more = f" and {len(ordered) - _SHOWN} tensors more" if len(ordered) > _SHOWN else ""
    return f"most in {', '.join(shown)}{more}"
