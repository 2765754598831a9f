"""Valid messages are accepted, each other one is refused with its reason, and every text of a message is found."""

from __future__ import annotations

from typing import Any

import pytest

from q3edge.errors import UsageError
from q3edge.runtime.text.message_checks import check_message, check_tools, conversation
from q3edge.runtime.text.messages import Message, changed_texts, content_text, texts, with_texts

CALL: Any = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": ["x", 1, None, True]}}}
ANSWER: Message = {"role": "assistant", "content": "so", "reasoning_content": "hm", "tool_calls": [CALL]}


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


def calling(call: object) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [call]}


@pytest.mark.parametrize(
    "message",
    [
        ANSWER,
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": []},
        {"role": "tool", "content": "3", "tool_call_id": "1", "name": "look"},
    ],
)
def test_messages_of_the_api_are_taken(message: Message) -> None:
    check_message(message)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user", "content": 5}, "the user message has content of type int; expected text or a list of parts"),
        ({"role": "user", "content": None}, "the user message has content of type NoneType"),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}],
            },
            "the user message has a part of kind 'image_url'; this model takes only parts of kind 'text'",
        ),
        ({"role": "user", "content": ["a"]}, "a part of kind 'str'"),
        ({"role": "user", "content": [{"type": "text"}]}, "a text part with type; expected type and text"),
        ({"role": "user", "content": "a", "name": 3}, "the user message has name of type int; expected text"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "only an assistant calls tools"),
        ({"role": "assistant", "tool_calls": {"function": CALL}}, "tool_calls is of type dict; expected a list"),
        ({"role": "user"}, "expected role, content and perhaps name, reasoning_content, tool_call_id, tool_calls"),
        (
            calling({"function": {"name": "look", "arguments": {"n": 10**5000}}}),
            "of more than 4096 bits; give it as text",
        ),
        (calling("look"), "a tool call is not of the form"),
        (calling({"name": "look", "arguments": {}}), "a tool call is not of the form"),
        (calling({"function": {"name": "look"}}), "a tool call's function has name; expected name and arguments"),
        (calling({"function": {"name": "look", "arguments": 3}}), "arguments of 'look' are of type int"),
        (calling({"function": {"name": "look", "arguments": {"a": {1, 2}}}}), "the assistant message holds set"),
        (calling({"function": {"name": "look", "arguments": {1: 2}}}), "an object whose keys are not text"),
        (calling({"function": {"name": "look", "arguments": {"a": "\udcff"}}}), "not valid Unicode at character 0"),
        (calling({"function": {"name": "look", "arguments": {"a": nested(70)}}}), "more than 64 levels deep"),
    ],
)
def test_what_is_wrong_with_a_message_is_told(message: Message, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        check_message(message)


def test_a_text_is_a_message_of_the_user() -> None:
    assert conversation("hello") == [{"role": "user", "content": "hello"}]
    assert conversation([ANSWER]) == [ANSWER]


@pytest.mark.parametrize("given", [5, None, {"role": "user", "content": "x"}, ["hello"], [ANSWER, None]])
def test_what_is_no_conversation_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match="messages: give a str, or a list of dicts with role and content"):
        conversation(given)
    with pytest.raises(UsageError, match="the conversation has no message"):
        conversation([])


def test_tools_are_dicts_of_plain_values() -> None:
    check_tools([{"type": "function", "function": {"name": "f"}}])
    for wrong in ("f", {"name": "f"}, ["f"], 3):
        with pytest.raises(TypeError, match="tools: give a list of dicts"):
            check_tools(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a tool holds object"):
        check_tools([{"name": object()}])


def test_every_text_is_found_and_can_be_replaced() -> None:
    assert {"so", "hm", "look", "at", "x", "1"} <= set(texts(ANSWER))
    changed = with_texts(ANSWER, lambda name, text: f"{name}:{text}")
    assert (changed["role"], changed["content"], changed["reasoning_content"]) == (
        "assistant", "content:so", "reasoning_content:hm",
    )  # fmt: skip
    assert set(map(str.upper, texts(CALL))) == set(texts(changed_texts(CALL, str.upper)))
    assert changed_texts({"a": (1, None, True, 2.5)}, str.upper) == {"A": [1, None, True, 2.5]}
    assert ANSWER["content"] == "so"


@pytest.mark.parametrize(
    ("content", "text"),
    [("a", "a"), (None, ""), ([], ""), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb")],
)
def test_content_is_one_text(content: Any, text: str) -> None:
    assert content_text({"role": "assistant", "content": content}) == text
    assert content_text({"role": "assistant"}) == ""
