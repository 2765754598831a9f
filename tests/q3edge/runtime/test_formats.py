"""Answers of a model in a format: behind any thinking, alone, in a batch, with drafts, and cut off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.errors import UsageError
from q3edge.runtime.completion import Completion
from q3edge.runtime.generation.grammars import TokenMatcher
from q3edge.runtime.generation.sampling import Sampler
from q3edge.runtime.model import Model
from tests.helpers.runtime import seal

SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["cat", "dog"]}, "sat": {"type": "boolean"}},
    "required": ["animal", "sat"],
    "additionalProperties": False,
}
GREEDY: dict[str, Any] = {"temperature": 0.0}
PATTERN = "(the|a) (cat|dog) (sat|stood) on (the|a) (mat|log)( and (slept|ate)){0,3}"


def thinks(model: Model, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make the model begin with the tokens of `text`, and go on greedily."""
    left = iter(model.tokenizer.encode_markup(text))
    monkeypatch.setattr(Sampler, "__call__", lambda _sampler, scores: next(left, int(np.argmax(scores))))


def codes(done: Completion) -> list[str]:
    return [notice.code for notice in done.notices]


def check(done: Completion) -> None:
    found = json.loads(done.answer)
    assert found.keys() == {"animal", "sat"}
    assert found["animal"] in ("cat", "dog")
    assert isinstance(found["sat"], bool)
    assert (done.stats.finish_reason, codes(done)) == ("stop", [])


def test_thinking_is_free_before_an_answer_in_a_format(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    thinks(model, monkeypatch, "<think>\nthe dog\n</think>\n\n")
    done = model.chat("the cat", schema=SCHEMA, thinking=True)
    assert done.thinking == "the dog"
    check(done)
    thinks(model, monkeypatch, "")
    done = model.chat("the cat", schema=json.dumps(SCHEMA), thinking=False)
    assert done.thinking == ""
    check(done)


def test_a_format_behind_thinking_that_a_budget_ends_or_the_template_opens(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for budget in (0, 3):
        thinks(model, monkeypatch, "<think>" + "the cat sat"[: 4 * budget])
        done = model.chat("the cat", schema=SCHEMA, thinking_budget=budget)
        assert json.loads(done.answer).keys() == {"animal", "sat"}
        assert done.stats.forced_tokens > 0
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    template = "{{ messages[0].content }}<|im_end|>{% if add_generation_prompt %}<|im_start|>a\n<think>\n{% endif %}"
    (copy / "chat_template.jinja").write_text(template)
    seal(copy)
    with Model.open(copy, threads=1) as opened:
        thinks(opened, monkeypatch, "the dog\n</think>\n\n")
        done = opened.chat("the cat", schema=SCHEMA)
        assert done.thinking == "the dog"
        check(done)
        thinks(opened, monkeypatch, "")
        done = opened.chat("the cat", schema=SCHEMA, thinking_budget=0)
        assert (done.thinking, done.stats.forced_tokens > 0) == ("", True)
        check(done)


def test_a_raw_prompt_has_the_format_at_once(model: Model) -> None:
    assert model.generate("the cat", regex="cat|dog", **GREEDY).text in ("cat", "dog")
    assert model.generate("<|im_start|>assistant\n<think>", regex="cat|dog", **GREEDY).text in ("cat", "dog")


def test_answers_in_a_format_are_those_of_each_alone_in_a_batch_and_with_drafts(folder: Path, model: Model) -> None:
    asked: list[Any] = ["the cat", "the dog sat", "the mat and the log"]
    settings: dict[str, Any] = {"regex": PATTERN, "thinking": False, **GREEDY}
    alone = [model.chat(each, **settings) for each in asked]
    batch = model.batch(asked, **settings)
    with Model.open(folder, threads=1, speculate=True) as drafting:
        drafted = [drafting.chat(each, **settings) for each in asked]
    assert [done.token_ids for done in batch] == [done.token_ids for done in alone]
    assert [done.token_ids for done in drafted] == [done.token_ids for done in alone]
    assert all(done.stats.finish_reason == "stop" for done in alone)
    assert len({model.chat(asked[0], seed=seed, temperature=2.0, regex=PATTERN).answer for seed in range(6)}) > 1


def test_an_answer_that_the_limit_cuts_says_so(model: Model) -> None:
    done = model.chat("the cat", regex="[a-z ]{200}", thinking=False, max_new_tokens=3, **GREEDY)
    assert (done.stats.finish_reason, codes(done)) == ("length", ["format-unfinished"])
    assert "max_new_tokens" in done.notices[0].detail


def test_a_format_that_fails_ends_its_own_request_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = TokenMatcher.allowed

    def failing(matcher: TokenMatcher) -> Any:
        if matcher._kind == "grammar":
            raise UsageError("grammar: the answer cannot go on")
        return allowed(matcher)

    monkeypatch.setattr(TokenMatcher, "allowed", failing)
    good = model.stream("the cat", regex=PATTERN, thinking=False, **GREEDY)
    good.start()
    with pytest.raises(UsageError, match="grammar: the answer cannot go on"):
        model.chat("the dog", grammar='start: "cat"', thinking=False)
    assert good.finish().stats.finish_reason == "stop"
    with pytest.raises(UsageError, match="regex: unclosed"):
        model.chat("the cat", regex="[")
