"""Answering, judging and comparing: what is asked, what is left out and counted, and what survives a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from q3edge.errors import ResourceError
from q3edge.evaluation.answers import generated as module
from q3edge.evaluation.answers.behaviour import GeneratedAnswer
from q3edge.evaluation.answers.generated import answer_all, compare_generated, left_out
from q3edge.evaluation.distance.statistics import wilson
from q3edge.evaluation.sandbox.sandbox import Outcome, Sandbox
from q3edge.evaluation.scorecard.slices import recovery_score
from q3edge.evaluation.suites.suite import Item, Suite
from q3edge.runtime.completion import Completion
from q3edge.runtime.model import Model
from tests.helpers.runtime import write_artifact

QUESTION = Item("q", "answer", "math", "en", "the cat sat on", final="the mat", thinking=False)
CODE = Item("c", "code", "code", "en", "def f(a):\n", test="def check(f):\n    assert f(1) == 1", entry_point="f")
TEXT = Item("t", "text", "knowledge", "en", "the cat sat on the mat")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model.open(write_artifact(tmp_path_factory.mktemp("artifact")), threads=1) as opened:
        yield opened


def saying(monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[str]:
    """`Model.chat` says the texts in turn; filled with what it was asked."""
    asked: list[str] = []
    answers = iter(texts)
    original = Model.chat

    def chat(self: Model, messages: Any, settings: Any, **options: Any) -> Completion:
        asked.append(messages[-1]["content"])
        said = original(self, messages, settings, **options)
        text = next(answers)
        return replace(said, text=text, thinking="", answer=text)

    monkeypatch.setattr(Model, "chat", chat)
    return asked


class PassingSandbox:
    """Accepts programs that return their argument, and runs nothing; a test without `check` is at fault."""

    def judge(self, source: str, *, test: str, entry_point: str, prompt: str) -> Outcome:
        assert f"def {entry_point}(" in prompt
        if "check" not in test:
            return Outcome(None, "KeyError: 'check'")
        passed = "return a" in source
        return Outcome(passed, "" if passed else "AssertionError")


def test_a_question_is_answered_as_the_model_would_in_a_chat(model: Model) -> None:
    (found,) = answer_all(model, [QUESTION], max_new_tokens=8)
    said = model.chat(
        [{"role": "user", "content": QUESTION.prompt}],
        model.settings(max_new_tokens=8, temperature=0.0),
        thinking=False,
    )
    assert (found.text, found.answer, found.tokens) == (said.text, said.answer, len(said.token_ids))
    assert found.finish_reason == said.stats.finish_reason
    assert found.correct is False
    assert answer_all(model, [replace(QUESTION, final=found.answer.strip())], max_new_tokens=8)[0].correct


def test_a_seed_samples_and_repeats(model: Model) -> None:
    one, same, other = (answer_all(model, [QUESTION], max_new_tokens=16, seed=seed)[0].text for seed in (1, 1, 2))
    greedy = answer_all(model, [QUESTION], max_new_tokens=16)[0].text
    assert one == same
    assert len({one, other, greedy}) == 3


def test_a_seed_gives_the_same_answer_alone_and_among_others(model: Model) -> None:
    other = replace(QUESTION, id="r", prompt="the dog sat on")
    assert answer_all(model, [other, QUESTION], max_new_tokens=8, seed=1)[1:] == answer_all(
        model, [QUESTION], max_new_tokens=8, seed=1
    )


def test_without_a_template_the_model_goes_on(model: Model) -> None:
    bare = replace(model, template=None)
    question, code = answer_all(bare, [QUESTION, CODE], max_new_tokens=8)
    said = bare.generate("Question: the cat sat on\nAnswer:", bare.settings(max_new_tokens=8, temperature=0.0))
    assert question.text == said.text
    assert code.text == bare.generate(CODE.prompt, bare.settings(max_new_tokens=8, temperature=0.0)).text


def test_what_is_not_asked_is_counted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(QUESTION, prompt="x" * 600)
    saying(monkeypatch, "the mat", "```python\ndef f(a): return a\n```")
    found = answer_all(model, [TEXT, long, QUESTION, CODE], max_new_tokens=4)
    assert [item.correct for item in found] == [None, None, True, None]
    assert [(notice.code, notice.count) for notice in left_out(found)] == [
        ("texts-not-generated", 1),
        ("items-too-long", 1),
        ("programs-not-run", 1),
    ]


def test_programs_are_judged_in_the_sandbox(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = saying(monkeypatch, "```python\ndef f(a): return a\n```", "    return 1")
    sandbox: Any = PassingSandbox()
    found = answer_all(model, [CODE, replace(CODE, prompt="def f(b):\n")], max_new_tokens=4, sandbox=sandbox)
    assert [(item.correct, item.reason) for item in found] == [(True, ""), (False, "AssertionError")]
    assert "```python\ndef f(a):\n\n```" in asked[0]


def test_r2_programs_run_in_the_sandbox_of_this_machine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        sandbox = Sandbox.open()
    except ResourceError as error:
        pytest.skip(str(error))
    answers = ["Sure:\n```python\ndef f(a): return a\n```", "    return a", "    return 0", "no program"]
    saying(monkeypatch, *answers)
    items = [replace(CODE, id=str(n), prompt=f"def f(a):  # {n}\n") for n in range(len(answers))]
    found = answer_all(model, items, max_new_tokens=4, sandbox=sandbox)
    assert [item.correct for item in found] == [True, True, False, False]
    assert found[2].reason == "AssertionError"


def test_r2_programs_whose_test_is_at_fault_are_counted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    saying(monkeypatch, "    return a", "    return a")
    sandbox: Any = PassingSandbox()
    found = answer_all(model, [CODE, replace(CODE, prompt="def f(b):\n", test="")], max_new_tokens=4, sandbox=sandbox)
    assert [item.correct for item in found] == [True, None]
    assert [(notice.code, notice.count) for notice in left_out(found)] == [("tests-unfit", 1)]


def test_a_killed_run_goes_on(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal.jsonl"
    items = [replace(QUESTION, id=str(i), prompt=f"the cat {i}") for i in range(3)] + [TEXT]
    whole = answer_all(model, items, max_new_tokens=4, journal=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:-20])
    written: list[str] = []
    original = module._write
    monkeypatch.setattr(module, "_write", lambda *a: written.append(a[1].id) or original(*a))  # type: ignore[func-returns-value]
    assert answer_all(model, items, max_new_tokens=4, journal=journal) == whole
    assert written == ["2", "t"]
    assert answer_all(model, items, max_new_tokens=4, journal=journal) == whole
    assert len(written) == 2
    answer_all(model, items, max_new_tokens=5, journal=journal)
    assert len(written) == 6


def test_a_journal_holds_no_judgements(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal.jsonl"
    saying(monkeypatch, "    return a")
    (first,) = answer_all(model, [CODE], max_new_tokens=4, journal=journal)
    sandbox: Any = PassingSandbox()
    (second,) = answer_all(model, [CODE], max_new_tokens=4, journal=journal, sandbox=sandbox)
    assert (first.correct, second.correct) == (None, True)


def test_foreign_lines_in_a_journal_are_no_answers(model: Model, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    answer_all(model, [QUESTION], max_new_tokens=4, journal=journal)
    line = json.loads(journal.read_text())
    line["value"]["written"]["tokens"] = 5  # its checksum says otherwise
    journal.write_text(json.dumps(line) + "\n[]\n3\nx")
    assert answer_all(model, [QUESTION], max_new_tokens=4, journal=journal)[0].tokens <= 4
    assert len(journal.read_text().splitlines()) == 5


def test_a_journal_that_cannot_be_written(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be written"):
        answer_all(model, [QUESTION], max_new_tokens=4, journal=tmp_path / "missing" / "journal.jsonl")


def judged(correct: bool | None, text: str = "x", tokens: int = 10, reason: str = "") -> GeneratedAnswer:
    return GeneratedAnswer(text, "", text, tokens, "stop", correct, reason)


def suites(count: int) -> tuple[Suite, Suite]:
    items = tuple(replace(QUESTION, id=f"q{i}", language="de" if i % 2 else "en") for i in range(count))
    return Suite("one", items, "", ""), Suite("two", (CODE,), "", "")


def test_a_model_keeps_all_of_itself() -> None:
    found = [judged(i % 3 == 0, f"text {i}") for i in range(20)] + [judged(True)]
    result = compare_generated(found, found, suites(20))
    recoveries = [score.slice.recovery for score in result.areas.values()]
    assert next((r.value, r.low, r.high) for r in recoveries if r) == (100, 100, 100)
    assert all(r and r.value == 100 for r in recoveries)
    overall = recovery_score(result.areas)[0]
    assert overall
    assert overall.value == 100
    assert result.length_ratio
    assert (result.length_ratio.value, result.length_ratio.low, result.length_ratio.high) == (1, 1, 1)
    assert result.reference_behaviour == result.candidate_behaviour
    assert (result.lost, result.notices) == ((), ())


def test_slices_by_area_language_and_suite() -> None:
    reference = [judged(True, f"r{i}") for i in range(20)] + [judged(True)]
    candidate = [judged(i >= 5, f"c{i}", tokens=5) for i in range(20)] + [judged(False, "y", reason="AssertionError")]
    result = compare_generated(reference, candidate, suites(20))
    assert {name: score.slice.items for name, score in result.areas.items()} == {"math": 20, "code": 1}
    assert {name: found.items for name, found in result.suites.items()} == {"one": 20, "two": 1}
    assert {name: found.candidate_score.value for name, found in result.languages.items()} == {"en": 7 / 11, "de": 0.8}
    math = result.areas["math"].slice
    assert (math.reference_score, math.candidate_score) == (wilson([True] * 20), wilson([True] * 15 + [False] * 5))
    assert math.recovery
    assert math.recovery.value == 75
    assert math.recovery.low is not None
    assert 50 < math.recovery.low < 75
    assert [(found.suite, found.item, found.candidate_text) for found in result.lost][-1] == ("two", "c", "y")
    assert len(result.lost) == 6
    assert result.length_ratio
    assert result.length_ratio.value == pytest.approx((20 * 5 + 10) / 210)


def test_one_text_has_one_judgement() -> None:
    """As a program near its time limit may have two."""
    reference, candidate = [judged(True)] * 21, [judged(True)] * 20 + [judged(False, reason="not finished")]
    assert compare_generated(reference, candidate, suites(20)).areas["code"].slice.candidate_score.value == 1


def test_recovery_needs_something_to_recover() -> None:
    reference, candidate = [judged(False, "r")] * 21, [judged(True, "c")] * 21
    result = compare_generated(reference, candidate, suites(20))
    assert result.areas["math"].slice.recovery is None
    assert recovery_score(result.areas)[0] is None


def test_what_one_model_was_not_judged_on_counts_for_neither() -> None:
    skipped = GeneratedAnswer("", "", "", 0, None, None, module._TOO_LONG)
    unjudged = judged(None, reason=module._NOT_RUN)
    reference = [skipped, *[judged(True)] * 19, unjudged]
    candidate = [judged(False), skipped, *[judged(True, "y")] * 18, unjudged]
    result = compare_generated(reference, candidate, suites(20))
    assert result.areas["math"].slice.items == 18
    assert set(result.areas) == {"math"}
    assert [(n.code, n.count) for n in result.notices] == [("items-too-long", 2), ("programs-not-run", 1)]
    assert result.lost == ()


def test_nothing_to_compare() -> None:
    skipped = GeneratedAnswer("", "", "", 0, None, None, module._TOO_LONG)
    result = compare_generated([skipped] * 21, [skipped] * 21, suites(20))
    assert (result.areas, result.length_ratio, result.reference_behaviour) == ({}, None, None)
    with pytest.raises(ValueError, match="argument"):
        compare_generated([], [], suites(1))
