"""The text of answers: thinking and answer apart, and stop strings that never show."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from q3edge.errors import UsageError
from q3edge.runtime.completion import Completion
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.sampling import Sampler
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message
from q3edge.runtime.text.thinking import EARLY_STOP
from tests.helpers.runtime import seal

HELLO: list[Message] = [{"role": "user", "content": "the cat"}]


def says(model: Model, monkeypatch: pytest.MonkeyPatch, text: str, *, stopped: bool = True) -> list[int]:
    """Make the model give the tokens of `text`, whatever it is asked."""
    ids = model.tokenizer.encode_markup(text)

    def choose(request: Any, _logits: object) -> list[int]:
        given = request.statistics.new_tokens
        if not stopped:
            request._limit = len(ids)
        return [ids[given] if given < len(ids) else min(request._stops)]

    monkeypatch.setattr(Request, "_choose", choose)
    return ids


def test_l10_thinking_that_nothing_opened_is_apart_from_the_answer(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(model, monkeypatch, "the log\n</think>\n\nthe cat")
    done = model.chat(HELLO)
    assert (done.thinking, done.answer) == ("the log", "the cat")
    assert [notice.code for notice in done.notices] == ["thinking-unannounced"]
    assert model.generate("the").answer == done.text  # the model's whole input: nothing is thinking


def test_l10_a_template_that_opens_the_thinking(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    template = "{{ messages[0].content }}<|im_end|>{% if add_generation_prompt %}<|im_start|>a\n<think>\n{% endif %}"
    (copy / "chat_template.jinja").write_text(template)
    seal(copy)
    with Model.open(copy, threads=1) as model:
        says(model, monkeypatch, "the log\n</think>\n\nthe cat")
        done = model.chat(HELLO, thinking=True)
        assert (done.thinking, done.answer) == ("the log", "the cat")
        assert [notice.code for notice in done.notices] == ["no-thinking-switch"]
        says(model, monkeypatch, "the log", stopped=False)
        done = model.chat(HELLO)
        assert (done.thinking, done.answer, done.notices[0].code) == ("the log", "", "cut-in-thinking")
        assert "the limit of tokens ended the thinking" in done.to_json()["notices"][0]["detail"]


@pytest.mark.parametrize("thinking", [True, False])
def test_l11_a_template_with_the_switch_needs_no_note(model: Model, thinking: bool) -> None:
    assert "no-thinking-switch" not in {
        notice.code for notice in model.chat(HELLO, GenerationSettings(1), thinking=thinking).notices
    }


def test_l24_a_stop_string_ends_the_answer_and_is_not_part_of_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = says(model, monkeypatch, "<think>\non the mat\n</think>\n\nthe cat sat on the mat and the dog")
    stream = model.stream(HELLO, stop_strings=["the dog", "on the mat"])
    pieces = list(stream)
    done = stream.completion
    assert "".join(piece.text for piece in pieces if not piece.thinking) == done.answer == "the cat sat "
    assert (done.thinking, done.stats.finish_reason) == ("on the mat", "stop")
    assert done.text == "<think>\non the mat\n</think>\n\nthe cat sat "
    assert 0 < len(done.token_ids) == done.stats.new_tokens < len(ids)
    assert model.chat(HELLO, stop_strings="never").answer == "the cat sat on the mat and the dog"


def test_l24_a_stop_string_frees_the_model_and_leaves_the_cache_right(model: Model) -> None:
    free = model.generate("the cat sat", GenerationSettings(20))
    stop = free.text[3:5]
    done = model.generate("the cat sat", GenerationSettings(20), stop_strings=[stop])
    assert done.text == free.text[: free.text.index(stop)]
    assert model.generate("the cat sat", GenerationSettings(20)).token_ids == free.token_ids


def draws(model: Model, monkeypatch: pytest.MonkeyPatch, text: str) -> list[int]:
    """Make the model choose the tokens of `text`, where it may choose, and then a stop token."""
    ids = model.tokenizer.encode_markup(text)
    left = iter([*ids, *[297] * 9])
    monkeypatch.setattr(Sampler, "__call__", lambda _sampler, _logits: next(left))
    return ids


def codes(done: Completion) -> list[str]:
    return [notice.code for notice in done.notices]


def test_a_thinking_budget_stops_the_thinking_and_the_answer_follows(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    thought = model.tokenizer.encode_markup("the cat sat on")
    draws(model, monkeypatch, "<think>the cat sat on" + "the dog")
    stream = model.stream(HELLO, thinking_budget=len(thought))
    streamed = "".join(piece.text for piece in stream if piece.thinking)
    done = stream.completion
    assert done.text == "<think>the cat sat on" + EARLY_STOP + "the dog"
    assert done.thinking == streamed == "the cat sat on" + EARLY_STOP.removesuffix("\n</think>\n\n")
    assert (done.answer, codes(done)) == ("the dog", ["thinking-stopped"])
    assert done.notices[0].detail.startswith(f"thinking stopped after {len(thought)} tokens")
    early_stop = model.tokenizer.encode_markup(EARLY_STOP)
    assert list(done.token_ids[1 : len(thought) + 1 + len(early_stop)]) == thought + early_stop
    assert done.stats.forced_tokens == len(early_stop)
    assert done.stats.new_tokens == len(done.token_ids)


def test_a_thinking_budget_that_is_not_used_up_changes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("<think>\nthe cat\n</think>\n\nthe dog", "the cat sat on the mat and the dog sat on the log"):
        given = []
        for budget in (None, len(model.tokenizer.encode_markup("\nthe cat\n")) + 1):
            draws(model, monkeypatch, text)
            given.append(model.chat(HELLO, thinking_budget=budget))
        assert given[0].token_ids == given[1].token_ids
        assert given[0].text == given[1].text == text
        assert (given[1].notices, given[1].stats.forced_tokens) == ((), 0)


def test_a_budget_of_0_gives_the_input_that_thinking_off_does(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    draws(model, monkeypatch, "<think>the dog")
    done = model.chat(HELLO, thinking=True, thinking_budget=0)
    answer = model.tokenizer.encode_markup("the dog")
    before = model.encode_chat(HELLO, thinking=True) + list(done.token_ids[: -len(answer)])
    assert before == model.encode_chat(HELLO, thinking=False)
    assert (done.thinking, done.answer, done.notices) == ("", "the dog", ())
    assert model.chat(HELLO, thinking=False, thinking_budget=0, max_new_tokens=1).stats.forced_tokens == 0


def test_a_budget_where_the_template_opens_the_thinking(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    template = "{{ messages[0].content }}<|im_end|>{% if add_generation_prompt %}<|im_start|>a\n<think>\n{% endif %}"
    (copy / "chat_template.jinja").write_text(template)
    seal(copy)
    with Model.open(copy, threads=1) as model:
        thought = model.tokenizer.encode_markup("the cat")
        draws(model, monkeypatch, "the cat" + "the dog")
        done = model.chat(HELLO, thinking_budget=len(thought))
        assert (done.text, done.answer) == ("the cat" + EARLY_STOP + "the dog", "the dog")
        draws(model, monkeypatch, "the dog")
        done = model.chat(HELLO, thinking_budget=0)
        assert (done.text, done.thinking, done.answer) == ("\n</think>\n\nthe dog", "", "the dog")
        draws(model, monkeypatch, "the cat")
        done = model.chat(HELLO, thinking_budget=len(thought), max_new_tokens=len(thought) + 5)
        assert (len(done.token_ids), done.stats.finish_reason) == (len(thought) + 5, "length")
        assert sorted(codes(done)) == ["cut-in-thinking", "thinking-stopped"]


def test_a_budget_holds_in_a_batch_and_in_raw_text(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    draws(model, monkeypatch, "the dog")
    raw = model.generate("<|im_start|>assistant\n<think>", thinking_budget=0)
    assert (raw.text, raw.stats.forced_tokens > 0) == ("\n\n</think>\n\nthe dog", True)
    start = model.tokenizer.added_ids["<think>"]
    monkeypatch.setattr(Sampler, "__call__", lambda _sampler, _logits: start)
    batch = model.batch([HELLO, "the dog sat"], thinking_budget=2, max_new_tokens=150)
    early_stop = model.tokenizer.encode_markup(EARLY_STOP)
    for done in batch:
        assert list(done.token_ids[: 3 + len(early_stop)]) == [start] * 3 + early_stop
        assert done.stats.new_tokens == 150


def test_a_budget_for_a_model_without_thinking_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace("<think>", "<thing>"))
    seal(copy)
    with Model.open(copy, threads=1) as model:
        with pytest.raises(UsageError, match="thinking_budget = 4: the model's tokenizer has no <think> and </think>"):
            model.stream(HELLO, thinking_budget=4)
        assert model.chat(HELLO, max_new_tokens=2).stats.new_tokens <= 2
