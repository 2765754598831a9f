"""`ThinkingBudgets`: how often a model is right, and how long it takes, with each of several thinking budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from q3edge.evaluation.distance.statistics import Estimate


@dataclass(frozen=True, slots=True)
class BudgetResult:
    """Answers to the same questions with one thinking budget, in tokens; None: no limit.

    accuracy: the share of questions answered right, 0..1, and areas the same by area. stopped: the share of answers
    whose thinking came to the budget. tokens: mean tokens of an answer, thinking included. seconds: their mean, from
    the question to the whole answer, each answered alone; median_seconds: their median. wrong: questions answered
    wrong. generated: answers generated for this budget; the others are those of a smaller one that they did not use up.
    """

    budget: int | None
    accuracy: Estimate
    areas: Mapping[str, Estimate]
    stopped: Estimate
    tokens: Estimate
    seconds: Estimate
    median_seconds: float
    wrong: tuple[str, ...]
    generated: int


@dataclass(frozen=True, slots=True)
class ThinkingBudgets:
    """Results of one model by budget, smallest first.

    questions: "suite: item" of those that were judged with every budget. max_new_tokens: limit of an answer, thinking
    included. switched: thinking was asked for by the template's switch; a template without one was left alone.
    timed_on: facts of the machine that decide the seconds.
    """

    questions: tuple[str, ...]
    results: tuple[BudgetResult, ...]
    max_new_tokens: int
    switched: bool
    timed_on: Mapping[str, str]
