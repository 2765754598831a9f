"""Answers with several thinking budgets: every question with a right answer is answered once for each.

An answer whose thinking ended before its budget is the answer with every larger one, token for token, as the budget
forced nothing: it is not generated again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from q3edge import progress
from q3edge.artifact import Notice
from q3edge.errors import UsageError
from q3edge.evaluation.answers.behaviour import GeneratedAnswer
from q3edge.evaluation.answers.generated import answer_all
from q3edge.evaluation.distance.statistics import Bootstrap, Estimate, wilson
from q3edge.evaluation.sandbox.sandbox import Sandbox
from q3edge.evaluation.scorecard.thinking_budgets import BudgetResult, ThinkingBudgets
from q3edge.evaluation.suites.suite import Item, Suite
from q3edge.runtime.model import Model
from q3edge.runtime.text.template_file import read_template
from q3edge.runtime.text.thinking import ThinkingTokens
from q3edge.runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as it is asked, and its name in all suites."""

    name: str
    item: Item


@dataclass(frozen=True, slots=True)
class _Column:
    """Answers with one budget, one for each question, and how many were generated for it."""

    budget: int | None
    answers: Sequence[GeneratedAnswer]
    generated: int


def answer_by_budget(
    model: Model,
    suites: Sequence[Suite],
    budgets: Sequence[int | None],
    *,
    max_new_tokens: int,
    timed_on: Mapping[str, str],
    seed: int | None = None,
    sandbox: Sandbox | None = None,
    journal: Path | None = None,
) -> tuple[ThinkingBudgets | None, tuple[Notice, ...]]:
    """Answer the suites' questions with each of `budgets`, ascending, None (no limit) last, and thinking asked for.

    Programs are asked for only with a `sandbox`. None: there is no question that could be judged. The notices say so,
    and where no answer had any thinking. The journal is that of `answer_all`. UsageError: the model has no thinking.
    ResourceError, InputError: as `answer_all`.
    """
    require_thinking(model.folder, model.tokenizer)
    assert model.template is not None  # else it has no thinking
    switched = model.template.switches_thinking()
    asked = _questions(suites, thinking=True if switched else None, programs=sandbox is not None)
    columns: list[_Column] = []
    for budget in budgets:
        open_at = [at for at in range(len(asked)) if not columns or columns[-1].answers[at].stopped]
        progress.note(f"{_words(budget)}: {len(open_at)} of {len(asked)} questions to answer")
        found = answer_all(
            model, [asked[at].item for at in open_at], max_new_tokens=max_new_tokens, seed=seed,
            thinking_budget=budget, sandbox=sandbox, journal=journal, timed_on=timed_on,
        )  # fmt: skip
        answers = [*columns[-1].answers] if columns else [*found]
        for at, answer in zip(open_at, found):
            answers[at] = answer
        columns.append(_Column(budget, answers, len(found)))
    judged = [at for at in range(len(asked)) if all(column.answers[at].correct is not None for column in columns)]
    if not judged:
        return None, (Notice("no-thinking-budgets", 1, "no question could be judged with thinking budgets"),)
    results = tuple(_result(column, [(asked[at], column.answers[at]) for at in judged]) for column in columns)
    names = tuple(asked[at].name for at in judged)
    return ThinkingBudgets(names, results, max_new_tokens, switched, timed_on), _without_thinking(columns)


def require_thinking(folder: Path, tokenizer: Tokenizer) -> None:
    """Raise UsageError unless the model in `folder` can think: it has a chat template, and the tokenizer both marks."""
    templated = read_template(folder) is not None
    if not templated or ThinkingTokens.of(tokenizer) is None:
        lacks = "<think> and </think> in its tokenizer" if templated else "chat template"
        raise UsageError(f"{folder}: the model has no {lacks}, so there is no thinking; leave --thinking-budget out")


def _questions(suites: Sequence[Suite], *, thinking: bool | None, programs: bool) -> list[_Asked]:
    kinds = ("answer", "choice", "code") if programs else ("answer", "choice")
    return [
        _Asked(f"{suite.name}: {item.id}", replace(item, thinking=thinking))
        for suite in suites
        for item in suite.items
        if item.kind in kinds
    ]


def _words(budget: int | None) -> str:
    return "no limit of thinking" if budget is None else f"thinking budget {budget}"


def _result(column: _Column, answered: Sequence[tuple[_Asked, GeneratedAnswer]]) -> BudgetResult:
    seconds = [answer.seconds for _, answer in answered]
    areas = dict.fromkeys(question.item.area for question, _ in answered)
    return BudgetResult(
        budget=column.budget,
        accuracy=wilson([bool(answer.correct) for _, answer in answered]),
        areas={
            area: wilson([bool(answer.correct) for question, answer in answered if question.item.area == area])
            for area in areas
        },
        stopped=wilson([answer.stopped for _, answer in answered]),
        tokens=_mean([answer.tokens for _, answer in answered]),
        seconds=_mean(seconds),
        median_seconds=statistics.median(seconds),
        wrong=tuple(question.name for question, answer in answered if not answer.correct),
        generated=column.generated,
    )


def _mean(values: Sequence[float]) -> Estimate:
    return Bootstrap(np.arange(len(values))).mean(np.array(values, np.float64))


def _without_thinking(columns: Sequence[_Column]) -> tuple[Notice, ...]:
    if any(answer.thinking or answer.stopped for column in columns for answer in column.answers):
        return ()
    return (Notice("no-thinking", 1, "no answer had any thinking, so the thinking budgets change nothing"),)
