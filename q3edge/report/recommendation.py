"""Recommendation of a variant to ship: the rule, its result in words, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from q3edge.evaluation.distance.kl_names import KL_TITLES, KLName
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.report.gates import Gates


class VariantFigures(Protocol):
    """A variant's figures that the rule reads."""

    @property
    def name(self) -> str:
        """Name, unique among the variants."""

    @property
    def model_bytes(self) -> int:
        """Size in bytes."""

    @property
    def recovery(self) -> Estimate | None:
        """Recovery in percent of the reference."""

    def mean_kl(self, kl: KLName) -> Estimate | None:
        """Mean KL of that name, in nats."""

    @property
    def fewer_experts(self) -> tuple[int, int] | None:
        """Experts a token goes to, and those of the model; None where they are as many."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What looks broken, each a sentence."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Recommended variant. name: the one to ship, None where none passes. sentence says so; rule: how it was chosen.

    smallest and most_accurate: the alternatives, by size, and by mean KL among those smaller than the reference.
    refused: why each smaller variant was not taken, or every one where none passes.
    """

    name: str | None
    sentence: str
    rule: str
    smallest: str | None
    most_accurate: str | None
    refused: Mapping[str, str]

    @property
    def refused_title(self) -> str:
        """Title of the list of `refused`."""
        return "Why none passes" if self.name is None else "Why no smaller one"


def recommend(
    variants: Sequence[VariantFigures], gates: Gates, reference_bytes: int | None, kl: KLName
) -> Recommendation:
    """Recommend the smallest variant that passes all gates; of equal size, the one with the smaller KL of that name.

    What looks broken is never recommended, whatever its figures.
    """
    ordered = sorted(variants, key=lambda v: (v.model_bytes, _distance(v, kl)))
    refused: dict[str, str] = {}
    chosen = None
    for variant in ordered:
        obstacles = [*variant.faults]
        obstacles += [r.reason for r in gates.judge(variant.recovery, variant.mean_kl(kl), kl) if r.status != "pass"]
        if not obstacles:
            chosen = variant
            break
        refused[variant.name] = "; ".join(obstacles)
    undecided = [v.name for v in ordered if not v.faults and gates.undecided(v.recovery, v.mean_kl(kl), kl)]
    measured = [v for v in ordered if v.mean_kl(kl)]
    measured = [v for v in measured if reference_bytes is None or v.model_bytes < reference_bytes] or measured
    best = min(measured, key=lambda v: _distance(v, kl)) if measured else None
    return Recommendation(
        name=chosen.name if chosen else None,
        sentence=_sentence(chosen, reference_bytes, kl) if chosen else _none(bool(ordered), undecided),
        rule=f"The smallest variant with {gates.rule(kl)}.",
        smallest=ordered[0].name if ordered else None,
        most_accurate=best.name if best else None,
        refused=refused,
    )


def _distance(variant: VariantFigures, kl: KLName) -> float:
    found = variant.mean_kl(kl)
    return found.value if found else float("inf")


def _none(any_there: bool, undecided: Sequence[str]) -> str:
    if undecided:
        return (
            f"Undecided: too few items to tell whether {', '.join(undecided)} can be shipped; measure more (a larger "
            "--limit or none, or more --suite files)."
        )
    return "Ship none of these: no variant passes." if any_there else "There is no variant to judge."


def _sentence(chosen: VariantFigures, reference_bytes: int | None, kl: KLName) -> str:
    facts = [f"{chosen.model_bytes / 1e6:.1f} MB"]
    if reference_bytes:
        share = 100 * chosen.model_bytes / reference_bytes
        facts[0] += f", {share:.0f} % of the checkpoint's {reference_bytes / 1e6:.1f} MB"
    if chosen.recovery:
        facts.append(f"recovery {chosen.recovery.value:.1f} %{_interval(chosen.recovery, '.1f')}")
    if found := chosen.mean_kl(kl):
        facts.append(f"{KL_TITLES[kl]} {found.value:.3g} nats{_interval(found, '.3g')}")
    return f"Ship {chosen.name}: {', '.join(facts)}.{_experts(chosen)}"


def _experts(chosen: VariantFigures) -> str:
    if chosen.fewer_experts is None:
        return ""
    used, own = chosen.fewer_experts
    return f" It is not the whole model: each token goes to {used} experts, in place of {own}."


def _interval(found: Estimate, digits: str) -> str:
    return "" if found.low is None else f" [{found.low:{digits}}, {found.high:{digits}}]"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, loss) that no other point beats, in order of cost.

    One point beats another where it is no worse in both and better in one; of equal points the first stands for all.
    """
    front: list[int] = []
    least = float("inf")
    for i in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if points[i][1] < least:
            front.append(i)
            least = points[i][1]
    return front
