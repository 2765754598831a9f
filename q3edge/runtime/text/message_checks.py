"""Checks of conversations and tools: each error names what it found and what to give.

Misuse by a program (no list, no dicts) is a TypeError; the contents of a dict may come from a user: UsageError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from q3edge.errors import UsageError
from q3edge.runtime.text.messages import ROLES, Message, Tool, ToolCall, members

_DEEPEST = 64  # levels of lists and objects in one message or tool
_LONGEST_NUMBER = 4096  # bits of a whole number; Python writes and reads none of more than 4300 digits


def conversation(messages: str | Sequence[Message]) -> Sequence[Message]:
    """Messages of a conversation; a str is one message of the user. TypeError: neither. UsageError: no message."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not _is_list(messages, Mapping):
        raise TypeError("messages: give a str, or a list of dicts with role and content")
    if not messages:
        raise UsageError("the conversation has no message; give at least one")
    return messages


def check_message(message: Message) -> None:
    """Raise UsageError for an unknown role or field, content that is not text, an invalid call or invalid Unicode.

    The error names what it found.
    """
    role = message.get("role")
    if role not in ROLES:
        raise UsageError(f"role {role!r}: expected one of {', '.join(ROLES)}")
    unknown = message.keys() - Message.__annotations__.keys()
    if unknown or ("content" not in message and not message.get("tool_calls")):
        raise UsageError(
            f"message with {', '.join(map(str, message))}: expected role, content and perhaps "
            f"{', '.join(sorted(Message.__annotations__.keys() - {'role', 'content'}))}"
        )
    check_plain(message, f"the {role} message")
    _check_content(message)
    for name in ("reasoning_content", "tool_call_id", "name"):
        if not isinstance(message.get(name), str | None):
            raise UsageError(f"the {role} message has {name} of type {_kind(message.get(name))}; expected text")
    if message.get("tool_calls"):
        _check_calls(message)


def check_tools(tools: Sequence[Tool]) -> None:
    """Raise TypeError unless `tools` is a list of dicts, UsageError for a non-JSON value or invalid Unicode in it."""
    if not _is_list(tools, Mapping):
        raise TypeError('tools: give a list of dicts such as {"type": "function", "function": {"name": ...}}')
    check_plain(list(tools), "a tool")


def check_unicode(text: str, what: str) -> None:
    """Raise UsageError unless `text` can be written as UTF-8 (it holds no lone surrogate); `what` names it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid Unicode at character {error.start}; give UTF-8 text") from None


def refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python's reader of JSON takes. ValueError."""
    raise ValueError(f"{constant} is no JSON")


def check_plain(value: object, what: str, depth: int = 0) -> None:
    """Raise UsageError unless JSON has this value, with valid Unicode and at most 64 levels; `what` names it."""
    if isinstance(value, str):
        check_unicode(value, what)
    elif isinstance(value, Mapping | list | tuple):
        if depth == _DEEPEST:
            raise UsageError(f"{what} is nested more than {_DEEPEST} levels deep; give a flatter one")
        for inner in members(value):
            check_plain(inner, what, depth + 1)
        if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
            raise UsageError(f"{what} has an object whose keys are not text; give what JSON can hold")
    elif isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        raise UsageError(f"{what} holds a whole number of more than {_LONGEST_NUMBER} bits; give it as text")
    elif not isinstance(value, int | float | None):
        raise UsageError(f"{what} holds {_kind(value)}; give what JSON can hold")


def _check_content(message: Message) -> None:
    content: Any = message.get("content")
    role = message["role"]
    if content is None and message.get("tool_calls"):
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list | tuple):
        raise UsageError(f"the {role} message has content of type {_kind(content)}; expected text or a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
        if kind != "text":
            raise UsageError(
                f"the {role} message has a part of kind {kind!r}; this model takes only parts of kind 'text'"
            )
        if not isinstance(part.get("text"), str) or part.keys() != {"type", "text"}:
            raise UsageError(
                f"the {role} message has a text part with {', '.join(map(str, part))}; expected type and text"
            )


def _check_calls(message: Message) -> None:
    calls: Any = message.get("tool_calls")
    if message["role"] != "assistant":
        raise UsageError(f"the {message['role']} message has tool_calls; only an assistant calls tools")
    if not isinstance(calls, list | tuple):
        raise UsageError(f"tool_calls is of type {_kind(calls)}; expected a list of calls")
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or call.keys() - ToolCall.__annotations__.keys():
            raise UsageError('a tool call is not of the form {"type": "function", "function": {name, arguments}}')
        if function.keys() != {"name", "arguments"} or not isinstance(function["name"], str):
            raise UsageError(f"a tool call's function has {', '.join(map(str, function))}; expected name and arguments")
        if not isinstance(function["arguments"], Mapping | str):
            raise UsageError(
                f"arguments of {function['name']!r} are of type {_kind(function['arguments'])}; expected an object or "
                "its JSON text"
            )


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(inner, kind) for inner in value)


def _kind(value: object) -> str:
    return type(value).__name__
