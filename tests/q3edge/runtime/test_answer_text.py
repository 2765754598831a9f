"""The text of answers: thinking and answer apart, and stop strings that never show."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message
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
