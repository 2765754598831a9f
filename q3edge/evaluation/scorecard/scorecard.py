"""`Scorecard`: results of an evaluation of one artifact. Plain values that survive JSON. `assemble` makes it,
`q3edge.report` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from q3edge.artifact import Notice
from q3edge.errors import InputError
from q3edge.evaluation.distance.statistics import Comparison, Estimate
from q3edge.evaluation.plain_values import from_plain
from q3edge.evaluation.scorecard.thinking_budgets import ThinkingBudgets
from q3edge.evaluation.validation.results import CheckResult

Mode = Literal["teacher-forced", "generated"]
Metric = Literal["accuracy", "likelihood"]
Kind = Literal["questions", "texts"]  # items with an answer, and texts that are read through


@dataclass(frozen=True, slots=True)
class Slice:
    """One area, language or suite.

    metric says what the scores are: "accuracy" the share of items answered right, 0..1; "likelihood" the geometric
    mean probability of the tokens that really follow (1 / perplexity), for items without an answer.
    scored: the items that scores and recovery are of; where there are both kinds, the kind that recovers less, so that
    no gain on foreign text hides a loss. recovery: candidate's score in percent of the reference's, paired; None where
    the reference scores 0. items: of both kinds. comparison: over the tokens of both, with the right answers read; None
    where that was not done.
    """

    items: int
    metric: Metric
    scored: Kind
    reference_score: Estimate
    candidate_score: Estimate
    recovery: Estimate | None
    comparison: Comparison | None


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Writing behaviour of one model, over the generated items it applies to; None where it applies to none.

    Shares 0..1: the thinking was closed, the answer ended by itself, asked-for JSON was valid, the answer was in the
    language of the question. length: mean tokens of an answer.
    """

    thinking_closed: Estimate | None
    ended: Estimate | None
    json_valid: Estimate | None
    language_kept: Estimate | None
    length: Estimate


@dataclass(frozen=True, slots=True)
class Example:
    """A position where the models differ most: the text before it and both models' most likely next tokens.

    kl in nats; reference_next, candidate_next: (token as text, probability), most likely first. reference_text,
    candidate_text: both models' greedy continuations from there; empty where none was generated.
    """

    suite: str
    item: str
    context: str
    kl: float
    reference_next: tuple[tuple[str, float], ...]
    candidate_next: tuple[tuple[str, float], ...]
    reference_text: str = ""
    candidate_text: str = ""


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """An item that the reference answered right and the candidate wrong, with what both said (generated mode)."""

    suite: str
    item: str
    question: str
    expected: str
    reference_text: str
    candidate_text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of tokens by KL: counts[i] of them in edges[i] <= KL < edges[i + 1], edges in nats.

    The last count has what lies above the last edge too.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Comparison of one artifact (the candidate) with one reference on the same suites.

    recovery: the areas' recoveries, each at most 100, averaged with `area_weights`, which sum to 1 over the areas run.
    kinds: all questions and all texts apart, as they were read; empty where the items are of one kind.
    mode "generated": scores come from generated answers where there are right ones. Both behaviours and
    length_ratio, candidate's mean answer length over the reference's: None in teacher-forced mode. checks: what looks
    broken, such as an all-zero matrix. notices: what was left out or approximated. timing: seconds of reading in this
    run by model, and the tokens each read, without what came from the cache. thinking_budgets: the artifact's answers
    with each budget; None where none was asked for. Digests are hex sha256.
    """

    mode: Mode
    artifact: str
    artifact_digest: str
    reference: str
    reference_digest: str
    suite_digests: Mapping[str, str]
    settings: Mapping[str, Any]
    recovery: Estimate | None
    area_weights: Mapping[str, float]
    areas: Mapping[str, Slice]
    kinds: Mapping[str, Slice]
    languages: Mapping[str, Slice]
    suites: Mapping[str, Slice]
    overall: Comparison | None
    histogram: Histogram | None
    reference_behaviour: Behaviour | None
    candidate_behaviour: Behaviour | None
    worst: tuple[Example, ...]
    checks: tuple[CheckResult, ...]
    versions: Mapping[str, str]
    seconds: float
    notices: tuple[Notice, ...] = ()
    lost: tuple[LostAnswer, ...] = ()
    length_ratio: Estimate | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    thinking_budgets: ThinkingBudgets | None = None

    @property
    def suite_kl(self) -> Estimate | None:
        """Mean KL on the suites, in nats; None where no tokens were compared."""
        return self.overall.mean_kl if self.overall else None

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object, and `suite_kl`; every number is finite. `scorecard_from_json` reads it back."""
        return {"suite_kl": asdict(self.suite_kl) if self.suite_kl else None, **asdict(self)}


def scorecard_from_json(raw: object) -> Scorecard:
    """The scorecard whose `to_json` gave `raw`, with or without what follows from its fields.

    InputError: fields missing, unknown or of another type.
    """
    own = {name: value for name, value in raw.items() if name != "suite_kl"} if isinstance(raw, Mapping) else raw
    try:
        return from_plain(Scorecard, own)
    except TypeError as error:
        raise InputError(f"not a scorecard of this q3edge ({error}); evaluate again") from None
