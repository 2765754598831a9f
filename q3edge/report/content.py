"""`Report`: everything a report says, as plain values. The page, the JSON and the Markdown are made from it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from q3edge.artifact import Notice
from q3edge.evaluation.distance.statistics import Comparison, Estimate
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.report.gates import Gates
from q3edge.report.recommendation import Recommendation, pareto_front

Kind = Literal["artifact", "baseline"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over repeats: median, smallest, largest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured in `repeats` fresh processes: `prompt` tokens at once, then `new` tokens behind `depth` of context.

    Rates in tokens/s; peak_bytes: resident memory of the process. products_only: only the matrix products of a token
    were timed, so the rate is one that the whole model stays below; then there is no prefill and no peak.
    """

    tokens_per_second: Spread
    prefill_tokens_per_second: Spread | None
    peak_bytes: Spread | None
    repeats: int
    prompt: int
    depth: int
    new: int
    threads: int
    products_only: bool = False


@dataclass(frozen=True, slots=True)
class TensorFact:
    """One matrix: its scheme's label, stored bits per weight, and squared output errors relative to the output's.

    loss: as it was rounded, rounding_loss: had it been rounded to nearest; None where no calibration measured them.
    """

    name: str
    scheme: str
    bits: float
    loss: float | None
    rounding_loss: float | None


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantized form of the reference: an ONNX artifact, or a baseline that others make.

    formats: the schemes of its matrices in words. validation: what `build` measured, where no scorecard was made.
    missing: what was not measured, and why, each a sentence.
    """

    name: str
    kind: Kind
    digest: str
    model_bytes: int
    bits_per_weight: float | None
    formats: str
    method: str
    scorecard: Scorecard | None = None
    validation: Comparison | None = None
    speed: Speed | None = None
    tensors: tuple[TensorFact, ...] = ()
    notices: tuple[Notice, ...] = ()
    versions: Mapping[str, str] | None = None
    missing: tuple[str, ...] = ()

    @property
    def comparison(self) -> Comparison | None:
        """Token by token against the reference, over all text."""
        return self.scorecard.overall if self.scorecard and self.scorecard.overall else self.validation

    @property
    def mean_kl(self) -> Estimate | None:
        """Mean KL to the reference in nats."""
        return self.comparison.mean_kl if self.comparison else None

    @property
    def recovery(self) -> Estimate | None:
        """The weighted score of all areas, in percent of the reference's."""
        return self.scorecard.recovery if self.scorecard else None


@dataclass(frozen=True, slots=True)
class Failure:
    """A variant that was asked for and is not there, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reference:
    """The float model: stored_bytes of its checkpoint, number of weights, the types it is stored in."""

    name: str
    digest: str
    stored_bytes: int
    weights: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """Variants of one reference (None: not given), as tables list them; machine: what it was measured on."""

    reference: Reference | None
    variants: tuple[Variant, ...]
    failures: tuple[Failure, ...]
    gates: Gates
    recommendation: Recommendation
    machine: Mapping[str, str]
    versions: Mapping[str, str]

    def share(self, variant: Variant) -> float | None:
        """The variant's size as a fraction of the reference's stored bytes."""
        return variant.model_bytes / self.reference.stored_bytes if self.reference else None

    def front(self) -> tuple[str, ...]:
        """Names of the variants that no other beats in both size and mean KL, smallest first."""
        judged = [variant for variant in self.variants if variant.mean_kl]
        points = [(v.model_bytes, v.mean_kl.value) for v in judged if v.mean_kl]
        return tuple(judged[i].name for i in pareto_front(points))

    def to_json(self) -> dict[str, Any]:
        """Every number that the page shows, unrounded, with what follows from them: share, front."""
        raw = asdict(self)
        for entry, variant in zip(raw["variants"], self.variants):
            entry["share_of_reference"] = self.share(variant)
        return {"schema": "q3edge-report", "schema_version": 1, "front": list(self.front()), **raw}
