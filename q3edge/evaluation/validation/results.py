"""Results of a validation: numbers with intervals, and checks that passed, failed or were skipped for a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from q3edge.errors import ValidationError
from q3edge.evaluation.distance.statistics import Comparison, Estimate

Status = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check: `value` was compared with `limit` (None: not a number); `reason` is a sentence."""

    name: str
    status: Status
    value: float | None
    limit: float | None
    reason: str

    @classmethod
    def at_most(cls, name: str, value: float, limit: float, reason: str) -> CheckResult:
        """Result of a check that passes where `value` is not above `limit`; NaN fails."""
        return cls(name, "pass" if value <= limit else "fail", value, limit, reason)


def require_passed(subject: str, checks: Iterable[CheckResult]) -> None:
    """Raise ValidationError if a check failed; it begins with `subject` and has the reason of every one that did."""
    if failed := [check.reason for check in checks if check.status == "fail"]:
        raise ValidationError(f"{subject}: " + "; ".join(failed))


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """Routing in one layer: how many of the compared tokens the float model's router sends to each expert.

    agreement: share of the experts that the artifact chooses, over all tokens, that the float model chooses too.
    """

    layer: int
    tokens: tuple[int, ...]
    agreement: float


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Comparison of an artifact with the float model it came from.

    overall, by_text: the artifact as it runs. weights_part: the same weights with exact float32 activations against
    the float model; activations_part: the artifact as it runs against that. None where a check says why not.
    verdict: what it comes to, in words. routing: of each layer with experts; empty for a model without any.
    kernels: that computed the artifact's products, as `Decoder.kernels` says; empty where that is not known.
    """

    KEY: ClassVar = "validation"  # among a manifest's metrics

    overall: Comparison
    by_text: Mapping[str, Comparison]
    weights_part: Comparison | None
    activations_part: Comparison | None
    checks: tuple[CheckResult, ...]
    verdict: str
    routing: tuple[LayerRouting, ...] = ()
    kernels: str = ""

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "fail")

    @property
    def text_kl(self) -> Estimate:
        """Mean KL on the text, in nats."""
        return self.overall.mean_kl

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object, and `text_kl`; every number is finite."""
        return {"text_kl": asdict(self.text_kl), **asdict(self)}
