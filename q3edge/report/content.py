"""`Report`: the content of a report as plain values. The page, the JSON and the Markdown are made from it alone."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from q3edge.artifact import Notice
from q3edge.evaluation.distance.kl_names import KL_TITLES, KLName
from q3edge.evaluation.distance.statistics import Comparison, Estimate
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.validation.verdict import verdict
from q3edge.report.experts import ExpertFacts
from q3edge.report.gates import Gates
from q3edge.report.recommendation import Recommendation, pareto_front
from q3edge.report.thinking import ThinkingAdvice

PROMPT = "Why is the sky blue?"  # of commands that are shown
VariantKind = Literal["artifact", "baseline"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Spread of a figure over repeats: median, smallest, largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Spread of these values, at least one."""
        return cls(float(statistics.median(values)), float(min(values)), float(max(values)))


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed in `repeats` fresh processes: `prompt` tokens at once, then `new` tokens with `depth` of context.

    Rates in tokens/s; peak_bytes: resident memory of the process. products_only: only the matrix products of a token
    were timed, so the rate is an upper bound for the whole model; then there is no prefill and no peak.
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

    matrices: more than one where it stands for a matrix of all of a layer's experts; bits and errors are their means.
    loss: as it was rounded, rounding_loss: had it been rounded to nearest; None where no calibration measured them.
    """

    name: str
    scheme: str
    bits: float
    loss: float | None
    rounding_loss: float | None
    matrices: int = 1


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantized form of the reference: an ONNX artifact, or a baseline of another library.

    folder: where it lies, as given, of an absolute path the last name; empty for a baseline. formats: the schemes of
    its matrices in words. validation: what `build` measured, on its own text. fewer_experts: how many experts a token
    goes to here, and in the model that it was made from; None where these are as many.
    missing: what was not measured, and why, each a sentence.
    """

    name: str
    kind: VariantKind
    digest: str
    model_bytes: int
    bits_per_weight: float | None
    formats: str
    method: str
    scorecard: Scorecard | None = None
    validation: Comparison | None = None
    speed: Speed | None = None
    tensors: tuple[TensorFact, ...] = ()
    experts: ExpertFacts | None = None
    notices: tuple[Notice, ...] = ()
    versions: Mapping[str, str] | None = None
    missing: tuple[str, ...] = ()
    folder: str = ""
    fewer_experts: tuple[int, int] | None = None

    def comparison(self, kl: KLName) -> Comparison | None:
        """Comparison with the reference, token by token, over what the KL of that name is measured on."""
        if kl == "text_kl":
            return self.validation
        return self.scorecard.overall if self.scorecard else None

    def mean_kl(self, kl: KLName) -> Estimate | None:
        """The mean KL of that name, in nats."""
        found = self.comparison(kl)
        return found.mean_kl if found else None

    @property
    def faults(self) -> tuple[str, ...]:
        """What looks broken: the evaluation's checks that failed, each a sentence."""
        checks = self.scorecard.checks if self.scorecard else ()
        return tuple(check.reason for check in checks if check.status == "fail")

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
class ReferenceFacts:
    """Facts of the float model: stored_bytes of its checkpoint, number of weights, numbers by dtype."""

    name: str
    digest: str
    stored_bytes: int
    weights: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """Report of variants of one reference (None: not given), as tables list them; machine: what it was measured on.

    command: the command line that makes it again. thinking: which variant to run with which thinking budget; None where
    none was measured with budgets.
    """

    reference: ReferenceFacts | None
    variants: tuple[Variant, ...]
    failures: tuple[Failure, ...]
    gates: Gates
    recommendation: Recommendation
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    command: str = ""
    thinking: ThinkingAdvice | None = None

    def share(self, variant: Variant) -> float | None:
        """The variant's size as a fraction of the reference's stored bytes."""
        return variant.model_bytes / self.reference.stored_bytes if self.reference else None

    @property
    def recommended(self) -> Variant | None:
        """The variant to ship; None where none passes."""
        return next((v for v in self.variants if v.name == self.recommendation.name), None)

    @property
    def run_command(self) -> str:
        """Command line that runs the recommended variant; empty where there is none."""
        found = self.recommended
        return shlex.join(["q3edge", "run", found.folder, PROMPT]) if found and found.folder else ""

    @property
    def thinking_command(self) -> str:
        """Command line that runs the variant and thinking budget of `thinking`; empty where there is none."""
        advice = self.thinking
        found = next((v for v in self.variants if advice and v.name == advice.variant), None)
        if advice is None or found is None or not found.folder:
            return ""
        asked = ["--think"] if advice.switched else []
        asked += [] if advice.budget is None else ["--thinking-budget", str(advice.budget)]
        return shlex.join(["q3edge", "run", found.folder, *asked, PROMPT])

    @property
    def kl(self) -> KLName:
        """Name of the KL that the variants are compared and gated by: `compared_kl` of them all."""
        return compared_kl(self.variants)

    def mean_kl(self, variant: Variant) -> Estimate | None:
        """The variant's mean KL of the report's name, in nats."""
        return variant.mean_kl(self.kl)

    def comparison(self, variant: Variant) -> Comparison | None:
        """Comparison of the variant, token by token, over what the report's KL is measured on."""
        return variant.comparison(self.kl)

    def verdict(self, variant: Variant) -> str | None:
        """Say in words how far the variant is from the reference; None where that was not measured."""
        return verdict(found) if (found := self.comparison(variant)) else None

    def front(self) -> tuple[str, ...]:
        """Names of the variants on the Pareto front of size and mean KL, smallest first."""
        points = {v.name: (v.model_bytes, found.value) for v in self.variants if (found := self.mean_kl(v))}
        names = list(points)
        return tuple(names[i] for i in pareto_front(list(points.values())))

    def to_json(self) -> dict[str, Any]:
        """JSON object of every number that the page shows, unrounded, with the shares, KLs by name and front."""
        raw = asdict(self)
        for entry, variant in zip(raw["variants"], self.variants):
            entry["share_of_reference"] = self.share(variant)
            entry["verdict"] = self.verdict(variant)
            if variant.experts:
                entry["experts"] |= variant.experts.derived()
            entry |= {name: found and asdict(found) for name in KL_TITLES for found in [variant.mean_kl(name)]}
        return {"schema": "q3edge-report", "schema_version": 2, "kl": self.kl, "front": list(self.front()), **raw}


def compared_kl(variants: Sequence[Variant]) -> KLName:
    """Name of the KL to compare by: suite_kl where any variant was evaluated, else text_kl; the two are never mixed."""
    return "suite_kl" if any(variant.mean_kl("suite_kl") for variant in variants) else "text_kl"
