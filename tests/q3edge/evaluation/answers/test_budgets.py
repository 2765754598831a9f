"""Answers by thinking budget: equal to asking for each by itself, never generated twice, kept with their seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.errors import UsageError
from q3edge.evaluation.answers import generated as module
from q3edge.evaluation.answers.budgets import answer_by_budget, require_thinking
from q3edge.evaluation.distance.statistics import wilson
from q3edge.evaluation.scorecard.thinking_budgets import ThinkingBudgets
from q3edge.evaluation.suites.suite import Item, Suite
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.pipeline.export import export_artifact
from q3edge.runtime.model import Model
from tests.helpers.runtime import write_artifact

BUDGETS = (0, 5, 14, None)
MOST = 96
HERE = {"cpu": "one", "threads": "1", "onnxruntime": "1"}
CODE = Item("c", "code", "code", "en", "def f(a):\n", test="def check(f): pass", entry_point="f")
TEXT = Item("t", "text", "knowledge", "en", "a text to be read")
SUITES = (replace(built_in_suites()[0], items=(*built_in_suites()[0].items[::37], CODE, TEXT)),)
QUESTIONS = [item for item in SUITES[0].items if item.kind == "answer"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("budgets") / "float"
    export_artifact(str(files("q3edge.data") / "demo_model"), folder, as_float=True)
    with Model.open(folder, threads=1) as opened:
        yield opened


def asked(
    model: Model,
    budgets: tuple[int | None, ...] = BUDGETS,
    journal: Path | None = None,
    timed_on: Mapping[str, str] = HERE,
) -> ThinkingBudgets:
    found, notices = answer_by_budget(model, SUITES, budgets, max_new_tokens=MOST, timed_on=timed_on, journal=journal)
    assert found is not None
    assert notices == ()
    return found


def test_each_budget_gives_what_the_model_answers_with_it(model: Model) -> None:
    found = asked(model)
    assert found.questions == tuple(f"built-in questions: {item.id}" for item in QUESTIONS)
    assert (found.switched, found.max_new_tokens) == (True, MOST)
    open_before = len(QUESTIONS)
    settings = model.settings(max_new_tokens=MOST, temperature=0.0)
    for budget, result in zip(BUDGETS, found.results, strict=True):
        said = [model.chat(item.prompt, settings, thinking=True, thinking_budget=budget) for item in QUESTIONS]
        right = [answer.answer.strip() == item.final for answer, item in zip(said, QUESTIONS)]
        stopped = [answer.stats.forced_tokens > 0 for answer in said]
        names = tuple(f"built-in questions: {item.id}" for item, known in zip(QUESTIONS, right) if not known)
        assert (result.budget, result.wrong, result.generated) == (budget, names, open_before)
        assert (result.accuracy, result.stopped) == (wilson(right), wilson(stopped))
        assert result.tokens.value == pytest.approx(np.mean([len(answer.token_ids) for answer in said]))
        for area, share in result.areas.items():
            assert share == wilson([known for item, known in zip(QUESTIONS, right) if item.area == area])
        assert result.median_seconds > 0
        open_before = sum(stopped)
    generated = [result.generated for result in found.results]
    assert generated[0] > generated[-1] > 0  # some thinking ended before the largest budget, and some did not


def test_a_killed_run_goes_on_with_the_seconds_that_it_measured(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, written = tmp_path / "journal.jsonl", list[str]()
    original = module._write

    def killed_at_last(*arguments: Any) -> Any:
        if len(written) == len(QUESTIONS) + 3:
            raise KeyboardInterrupt
        written.append(arguments[1].id)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", killed_at_last)
        with pytest.raises(KeyboardInterrupt):
            asked(model, journal=journal)
    monkeypatch.setattr(module, "_write", lambda *a: written.append(a[1].id) or original(*a))  # type: ignore[func-returns-value]
    whole = asked(model, journal=journal)
    count = len(written)
    assert count == sum(result.generated for result in whole.results)
    assert asked(model, journal=journal) == whole  # to the same seconds
    assert len(written) == count
    asked(model, (0, 5), journal=journal)
    assert len(written) == count  # a shorter list has the same answers
    elsewhere = asked(model, journal=journal, timed_on={**HERE, "cpu": "another"})
    assert len(written) == 2 * count
    assert [result.wrong for result in elsewhere.results] == [result.wrong for result in whole.results]


def test_a_model_without_thinking_is_told(model: Model, tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "bare")
    with Model.open(folder, threads=1) as bare:
        tokenizer = bare.tokenizer
        without: Any = type("Without", (), {"added_ids": {}})()
        with pytest.raises(UsageError, match="no <think> and </think> in its tokenizer, so there is no thinking"):
            require_thinking(folder, without)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UsageError, match="no chat template, so there is no thinking; leave --thinking-budget out"):
        require_thinking(folder, tokenizer)
    require_thinking(model.folder, model.tokenizer)


def test_answers_without_any_thinking_are_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Model.chat
    monkeypatch.setattr(Model, "chat", lambda *a, **_: chat(*a, thinking=False))
    found, notices = answer_by_budget(model, SUITES, (3, None), max_new_tokens=8, timed_on=HERE)
    assert [notice.code for notice in notices] == ["no-thinking"]
    assert found is not None
    assert [result.generated for result in found.results] == [len(QUESTIONS), 0]
    assert found.results[0].wrong == found.results[1].wrong


def test_without_a_question_that_can_be_judged_there_is_no_table(model: Model) -> None:
    found, notices = answer_by_budget(
        model, [Suite("s", (CODE, TEXT), "", "")], BUDGETS, max_new_tokens=8, timed_on=HERE
    )
    assert found is None
    assert [notice.code for notice in notices] == ["no-thinking-budgets"]
