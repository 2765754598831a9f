"""/v1/responses of a real server, asked by OpenAI's own client as its examples ask, against the library's answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from q3edge.runtime.model import Model

PATH = "/v1/responses"
JAPAN = "What is the capital of Japan?"
GREEDY: dict[str, Any] = {"model": "demo", "temperature": 0}
ADD: dict[str, Any] = {
    "type": "function", "name": "add", "description": "Add two numbers.", "strict": False,
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}  # fmt: skip


def test_the_official_client_gets_what_the_library_says(official: openai.OpenAI, model: Model) -> None:
    expected = model.chat(JAPAN, temperature=0)
    answer = official.responses.create(input=JAPAN, **GREEDY)
    assert answer.output_text == expected.answer == "Tokyo"
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    thinking, message = answer.output
    assert thinking.type == "reasoning"
    assert [part.text for part in thinking.content or ()] == [expected.thinking]
    assert (message.type, message.status) == ("message", "completed")
    assert answer.usage is not None
    assert answer.usage.input_tokens == expected.stats.prompt_tokens
    assert answer.usage.output_tokens == expected.stats.new_tokens
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens < expected.stats.new_tokens


def test_a_stream_has_every_event_in_its_order(official: openai.OpenAI) -> None:
    whole = official.responses.create(input=JAPAN, **GREEDY)
    events = list(official.responses.create(input=JAPAN, stream=True, **GREEDY))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    once = [kind for number, kind in enumerate(kinds) if kind not in kinds[:number] or not kind.endswith("delta")]
    part = ["output_item.added", "content_part.added", "{}.delta", "{}.done", "content_part.done", "output_item.done"]
    items = [kind.format(text) for text in ("reasoning_text", "output_text") for kind in part]
    assert once == ["created", "in_progress", *items, "completed"]
    final = events[-1]
    assert final.type == "response.completed"
    assert final.response.output_text == whole.output_text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert [item.type for item in final.response.output] == ["reasoning", "message"]
    with official.responses.stream(input=JAPAN, **GREEDY) as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_events_carry_their_names_and_nothing_follows_the_last(client: httpx.Client) -> None:
    lines = client.post(PATH, json={"input": JAPAN, "stream": True, **GREEDY}).text.strip().split("\n\n")
    for line in lines:
        name, data = line.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert lines[-1].startswith("event: response.completed")


def test_thinking_is_switched_bounded_and_told_as_a_summary(official: openai.OpenAI) -> None:
    off = official.responses.create(input=JAPAN, reasoning={"effort": "none"}, **GREEDY)
    assert [item.type for item in off.output] == ["message"]
    summary = official.responses.create(input=JAPAN, reasoning={"summary": "auto"}, **GREEDY)
    thinking = summary.output[0]
    assert thinking.type == "reasoning"
    assert len(thinking.summary) == 1
    assert thinking.summary[0].text.startswith("The capital")
    assert not thinking.content
    events = official.responses.create(input=JAPAN, reasoning={"summary": "auto"}, stream=True, **GREEDY)
    deltas = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == thinking.summary[0].text


def test_an_answer_that_is_cut_is_incomplete(official: openai.OpenAI) -> None:
    for stream in (False, True):
        answer: Any = official.responses.create(
            input=JAPAN, max_output_tokens=3, reasoning={"effort": "none"}, extra_body={"ignore_eos": True},
            stream=stream, **GREEDY,
        )  # fmt: skip
        found = list(answer)[-1].response if stream else answer
        assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert found.output[-1].status == "incomplete"
        assert found.usage.output_tokens == 3


def test_items_become_the_messages_that_they_are(client: httpx.Client, model: Model, official: openai.OpenAI) -> None:
    first = official.responses.create(input=JAPAN, instructions="Be brief.", **GREEDY)
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": JAPAN}]},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"type": "message", "role": "user", "content": "And of Italy?"},
    ]
    counted = official.responses.create(input=items, instructions="Be brief.", **GREEDY).usage
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": JAPAN},
        {"role": "assistant", "content": "Tokyo"}, {"role": "user", "content": "And of Italy?"},
    ]  # fmt: skip
    assert counted is not None
    assert counted.input_tokens == len(model.encode_chat(messages))


def test_an_answer_has_the_format_asked_for(official: openai.OpenAI) -> None:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")

    class Number(BaseModel):
        n: bool

    answer = official.responses.parse(
        input=JAPAN, text_format=Number, reasoning={"effort": "none"}, max_output_tokens=40, **GREEDY
    )
    assert isinstance(answer.output_parsed, Number)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "pirate", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": "x", "file": "y"}]}, "input[0].file"),
        ({"input": [{"type": "function_call", "name": "x", "call_id": "y"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "summary": [{"type": "x"}]}]}, "input[0].summary[0].type"),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "n": 2}, "n"),
        ({"input": "x", "max_tokens": 2}, "max_tokens"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"input": "x", "reasoning": {"effort": "low"}, "thinking_budget": 3}, "thinking_budget"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "x", "tools": [ADD] * 200}, "tools"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format"),
        ({"input": "x", "text": {"verbosity": "low"}}, "text.verbosity"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = client.post(PATH, json=fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_storing_is_not_asked_for_by_default(client: httpx.Client) -> None:
    fields = {"input": JAPAN, "store": True, "metadata": {"a": "b"}, "truncation": "disabled", **GREEDY}
    found = client.post(PATH, json=fields).raise_for_status().json()
    assert (found["store"], found["metadata"]) == (False, {"a": "b"})
