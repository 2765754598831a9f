"""Calls of tools in answers of a model: apart from the text, streamed whole, and what goes back in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.errors import UsageError
from q3edge.runtime.completion import Completion
from q3edge.runtime.generation.sampling import Sampler
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message, Tool
from q3edge.runtime.text.tool_calls import CalledTool
from tests.helpers.runtime import TOOL_TEMPLATE, seal

TOOLS: list[Tool] = [{"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}]
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "the mat", "n": 3}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "sit", "arguments": {}}\n</tool_call>'
CALLED, SAT = CalledTool("look", '{"at": "the mat", "n": 3}'), CalledTool("sit", "{}")


@pytest.fixture(scope="module")
def caller(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Model whose template takes tools, and whose tokenizer has Qwen3's tags as added tokens."""
    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("tools") / "copy"))
    (copy / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    first = max(token["id"] for token in tokenizer["added_tokens"]) + 1
    for index, tag in enumerate(("<tool_call>", "</tool_call>")):
        added = dict(tokenizer["added_tokens"][-1], id=first + index, content=tag, special=False)
        tokenizer["added_tokens"].append(added)
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    seal(copy)
    with Model.open(copy, threads=1) as model:
        yield model


def draws(model: Model, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make the model choose the tokens of `text`, and then a stop token."""
    left = iter([*model.tokenizer.encode_markup(text), *[297] * 9])
    monkeypatch.setattr(Sampler, "__call__", lambda _sampler, _logits: next(left))


def codes(done: Completion) -> list[str]:
    return [notice.code for notice in done.notices]


def test_calls_are_apart_from_the_text_also_in_a_stream(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    draws(caller, monkeypatch, f"<think>\nthe {CALL} cat\n</think>\n\nI look.\n{CALL}\n{OTHER}")
    stream = caller.stream("the cat", tools=TOOLS)
    pieces, done = list(stream), stream.completion
    assert "".join(piece.text for piece in pieces if piece.thinking) == done.thinking == f"the {CALL} cat"
    assert "".join(piece.text for piece in pieces if not piece.thinking) == done.answer == "I look."
    assert [piece.tool_call for piece in pieces if piece.tool_call] == [CALLED, SAT]
    assert all(bool(piece.text) != bool(piece.tool_call) for piece in pieces)
    assert (done.tool_calls, done.finish_reason, codes(done)) == ((CALLED, SAT), "tool_calls", [])
    assert CALL in done.text
    told = json.loads(json.dumps(done.to_json()))
    assert told["tool_calls"][0] == {"name": "look", "arguments": CALLED.arguments}
    assert (told["finish_reason"], told["stats"]["finish_reason"]) == ("tool_calls", "stop")


def test_without_tools_a_call_is_text(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in (caller.chat, caller.generate):
        draws(caller, monkeypatch, f"I look.\n{CALL}")
        done = asked("the cat")
        assert (done.answer, done.tool_calls, done.finish_reason) == (f"I look.\n{CALL}", (), "stop")


def test_a_broken_or_cut_call_is_text_with_a_notice(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "<tool_call>\n{'name': 3}\n</tool_call>"
    draws(caller, monkeypatch, f"the cat\n{broken}\n{OTHER}")
    done = caller.chat("the cat", tools=TOOLS)
    assert (done.answer, done.tool_calls, codes(done)) == (f"the cat\n{broken}", (SAT,), ["tool-call-broken"])
    assert (done.notices[0].count, "is not JSON" in done.notices[0].detail) == (1, True)
    draws(caller, monkeypatch, CALL)
    done = caller.chat("the cat", tools=TOOLS, max_new_tokens=8)
    assert done.answer == done.text
    assert (done.tool_calls, done.finish_reason, codes(done)) == ((), "length", ["tool-call-broken"])


def test_stop_strings_and_calls(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    draws(caller, monkeypatch, f"I look.\n{CALL}\nthe dog sat")
    done = caller.chat("the cat", tools=TOOLS, stop_strings=["dog"])
    assert (done.answer, done.tool_calls, done.text) == ("I look.\nthe ", (CALLED,), f"I look.\n{CALL}\nthe ")
    assert done.finish_reason == "tool_calls"


def test_an_answer_in_a_format_may_call_tools_instead(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(caller.tokenizer.encode_markup(CALL))

    def choose(_sampler: object, scores: Any) -> int:
        chosen = next(left, 297)
        assert scores[chosen] > -np.inf
        return chosen

    monkeypatch.setattr(Sampler, "__call__", choose)
    done = caller.chat("the cat", tools=TOOLS, regex="yes|no")
    assert (done.tool_calls, done.answer, codes(done)) == ((CALLED,), "", [])
    monkeypatch.setattr(Sampler, "__call__", lambda _sampler, scores: int(np.argmax(scores)))
    assert caller.chat("the cat", regex="yes|no").answer in ("yes", "no")  # no tools, no calls


def choosing(monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> None:
    """Make the model choose tokens that have to be allowed, then the best of those that are."""
    left = iter(ids)

    def choose(_sampler: object, scores: Any) -> int:
        chosen = next(left, int(np.argmax(scores)))
        assert scores[chosen] > -np.inf
        return chosen

    monkeypatch.setattr(Sampler, "__call__", choose)


def test_a_required_call_is_all_of_the_answer(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")
    sit: Tool = {"type": "function", "function": {"name": "sit", "parameters": {"properties": {}}}}
    both = [*TOOLS, sit]
    choosing(monkeypatch, [*caller.tokenizer.encode_markup(f"{CALL}\n{OTHER}"), 297])
    done = caller.chat("the cat", tools=both, tool_choice="required")
    assert (done.tool_calls, done.answer, codes(done)) == ((CALLED, SAT), "", [])
    choosing(monkeypatch, caller.tokenizer.encode_markup(OTHER))
    done = caller.chat("the cat", tools=both, tool_choice="sit", parallel_tool_calls=False)
    assert (done.tool_calls, done.answer, done.finish_reason) == ((SAT,), "", "tool_calls")
    for text, choice in ((CALL, "sit"), ("the cat", "required"), (f"{OTHER}\n{CALL}", "sit"), ("\n", "required")):
        choosing(monkeypatch, caller.tokenizer.encode_markup(text))
        with pytest.raises(AssertionError):
            caller.chat("the cat", tools=both, tool_choice=choice)
    choosing(monkeypatch, caller.tokenizer.encode_markup(CALL)[:9])
    done = caller.chat("the cat", tools=both, tool_choice="required", max_new_tokens=8)
    assert (done.finish_reason, "format-unfinished" in codes(done)) == ("length", True)


def test_without_parallel_calls_the_first_ends_the_answer(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    draws(caller, monkeypatch, f"I look.\n{CALL}\n{OTHER}")
    done = caller.chat("the cat", tools=TOOLS, parallel_tool_calls=False)
    assert (done.answer, done.tool_calls, done.finish_reason) == ("I look.", (CALLED,), "tool_calls")
    assert done.text == f"I look.\n{CALL}"


@pytest.mark.parametrize(
    ("tools", "choice", "problem"),
    [
        (TOOLS, "other", "there is no such tool"),
        ([], "required", "there is no such tool"),
        ([{"type": "function"}], "required", "no function with a name"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}], "f", "no JSON Schema"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"x": "y" * 2**18}}}], "f", "at most"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://x"}}}], "f", "tools: "),
    ],
)
def test_a_call_that_cannot_be_required(caller: Model, tools: list[Tool], choice: str, problem: str) -> None:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")
    with pytest.raises(UsageError, match=problem):
        caller.chat("the cat", tools=tools, tool_choice=choice)


def test_calls_and_results_go_back_in_as_the_model_wrote_them(caller: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    draws(caller, monkeypatch, f"I look.\n{CALL}\n{OTHER}")
    asked: list[Message] = [{"role": "user", "content": "the cat"}]
    done = caller.chat(asked, tools=TOOLS)
    results: list[Message] = [
        {"role": "tool", "tool_call_id": call["id"], "content": "a mat"} for call in done.message()["tool_calls"]
    ]
    ids = caller.encode_chat([*asked, done.message(), *results], tools=TOOLS, add_generation_prompt=False)
    before = caller.encode_chat(asked, tools=TOOLS)
    assert ids[: len(before) + len(done.token_ids)] == before + list(done.token_ids)  # so that nothing is read again
    as_objects: Message = {**done.message()}
    as_objects["tool_calls"] = [{"function": {"name": call.name, "arguments": call.parsed}} for call in done.tool_calls]
    assert caller.encode_chat([*asked, as_objects, *results], tools=TOOLS, add_generation_prompt=False) == ids
    assert caller.chat("the cat", max_new_tokens=1).message().get("tool_calls") is None
