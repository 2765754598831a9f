"""Choice of a variant and a thinking budget: the rule, its result in words, and the points of the chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from q3edge.evaluation.distance.statistics import Bootstrap, Estimate
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.scorecard.thinking_budgets import BudgetResult, ThinkingBudgets
from q3edge.report.recommendation import pareto_front

_SIGNIFICANT = 0.05
RULE = (
    "The fastest, by mean seconds per answer, whose accuracy is not significantly below the highest: exact McNemar "
    f"test on the same questions, one-sided, p of at least {_SIGNIFICANT}. What looks broken is left out."
)


class AnsweringVariant(Protocol):
    """A variant's parts that the rule reads."""

    @property
    def name(self) -> str:
        """Name, unique among the variants."""

    @property
    def scorecard(self) -> Scorecard | None:
        """Its evaluation."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What looks broken, each a sentence."""


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """One variant with one thinking budget (None: no limit).

    below: how much less often it is right than the most accurate point, on the same questions, as a share; p: the
    chance of so many losses among the questions that only one of the two had right, were they equally good. Both are
    None where they have no question in common. front: no other point is both faster and more accurate.
    """

    variant: str
    budget: int | None
    result: BudgetResult
    below: Estimate | None
    p: float | None
    front: bool

    @property
    def as_good(self) -> bool:
        """Whether its accuracy is not significantly below the highest."""
        return self.p is not None and self.p >= _SIGNIFICANT


@dataclass(frozen=True, slots=True)
class ThinkingAdvice:
    """Recommended variant and thinking budget (None: no limit), and all points, by variant and budget.

    variant None: every variant with budgets looks broken. switched: thinking is asked for by the template's switch.
    """

    variant: str | None
    budget: int | None
    sentence: str
    rule: str
    switched: bool
    points: tuple[BudgetPoint, ...]


@dataclass(frozen=True, slots=True)
class _Answered:
    variant: AnsweringVariant
    budgets: ThinkingBudgets
    result: BudgetResult


def advise(variants: Sequence[AnsweringVariant]) -> ThinkingAdvice | None:
    """Recommend one variant with one thinking budget, by RULE; None where no variant was measured with budgets."""
    answered = [
        _Answered(variant, budgets, result)
        for variant in variants
        if variant.scorecard and (budgets := variant.scorecard.thinking_budgets)
        for result in budgets.results
    ]
    if not answered:
        return None
    sound = [found for found in answered if not found.variant.faults]
    best = min(sound or answered, key=lambda found: (-found.result.accuracy.value, found.result.seconds.value))
    costs = [(found.result.seconds.value, -found.result.accuracy.value) for found in answered]
    front = pareto_front(costs)
    points = tuple(_point(found, best, at in front) for at, found in enumerate(answered))
    allowed = [point for found, point in zip(answered, points) if point.as_good and not found.variant.faults]
    if not allowed:
        return ThinkingAdvice(None, None, "None of these: every variant looks broken.", RULE, False, points)
    chosen = min(allowed, key=lambda point: point.result.seconds.value)
    best_point = points[answered.index(best)]
    switched = next(found.budgets.switched for found in answered if found.variant.name == chosen.variant)
    return ThinkingAdvice(chosen.variant, chosen.budget, _sentence(chosen, best_point), RULE, switched, points)


def _point(found: _Answered, best: _Answered, front: bool) -> BudgetPoint:
    own = set(found.budgets.questions)
    common = [name for name in best.budgets.questions if name in own]
    below, p = (None, None) if not common else _compared(common, found.result, best.result)
    return BudgetPoint(found.variant.name, found.result.budget, found.result, below, p, front)


def _compared(questions: Sequence[str], own: BudgetResult, best: BudgetResult) -> tuple[Estimate, float]:
    wrong, best_wrong = set(own.wrong), set(best.wrong)
    lost = np.array([(name in wrong) - float(name in best_wrong) for name in questions], np.float64)
    below = Bootstrap(np.arange(len(lost))).mean(lost)
    return below, mcnemar(int((lost > 0).sum()), int((lost < 0).sum()))


def mcnemar(lost: int, won: int) -> float:
    """Chance of at least `lost` losses among `lost` + `won` fair ones: McNemar's exact test, one-sided."""
    total = lost + won
    return float(sum(math.comb(total, k) for k in range(lost, total + 1)) / 2**total)


def _sentence(chosen: BudgetPoint, best: BudgetPoint) -> str:
    said = f"Answer with {_named(chosen)}: {_right(chosen)}, {chosen.result.seconds.value:.3g} s an answer."
    if chosen is best:
        return f"{said} It is the most accurate too."
    assert chosen.below is not None
    more = f"{100 * chosen.below.value:.1f} points more{_interval(chosen.below)}"
    if not chosen.below.value:
        return f"{said} None is more often right."
    return (
        f"{said} The most accurate, {_named(best)}, has {more} and takes {best.result.seconds.value:.3g} s, "
        "a difference in accuracy that may be chance."
    )


def _named(point: BudgetPoint) -> str:
    if point.budget is None:
        return f"{point.variant} and no limit of thinking"
    if point.budget == 0:
        return f"{point.variant} and no thinking"
    return f"{point.variant} and a thinking budget of {point.budget} token{'s' * (point.budget != 1)}"


def _right(point: BudgetPoint) -> str:
    return f"{100 * point.result.accuracy.value:.1f} % right{_interval(point.result.accuracy)}"


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return ""
    return f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
