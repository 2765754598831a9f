"""Interpretation of a record's dialogue: messages and tools as OpenAI's API or ShareGPT write them -> the runtime's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from q3edge.runtime.text.messages import ROLES, Message, Tool, ToolCall, content_text, members

# Names that data sets have for the four roles, in `role` or in ShareGPT's `from`.
_ROLE_NAMES = {
    "human": "user", "gpt": "assistant", "developer": "system", "function": "tool", "observation": "tool",
    "function_call": "assistant",
}  # fmt: skip
_TEXT_PARTS = ("text", "input_text", "output_text")
_DEEPEST = 64  # levels of lists and objects in a call or a tool, as in the runtime


class RecordError(ValueError):
    """A record that makes no document; the text says what is wrong."""


def messages_of(value: object, key: str) -> tuple[Message, ...]:
    """Messages in the value of a record's key.

    `developer` is `system`; `function_call`, as a field or as a turn of its own, is a tool call; parts of text are
    joined by newlines. RecordError: no list, an unknown role, content or a call that has not the form, or a part that
    is no text.
    """
    if not isinstance(value, list | tuple):
        raise RecordError(f"{key} is {kind_of(value)}; expected a list of messages with role and content")
    return tuple(_message(entry, f"{key}[{index}]") for index, entry in enumerate(value))


def tools_of(fields: Mapping[str, Any]) -> tuple[Tool, ...]:
    """Tools that the dialogue of a record may call: `tools`, or the older `functions`; a list, or one as JSON text."""
    for key in ("tools", "functions"):
        value = fields.get(key)
        value = _parsed(value, key) if isinstance(value, str) and value.strip() else value
        if not says(value):
            continue
        if not isinstance(value, list | tuple) or not all(isinstance(tool, Mapping) for tool in value):
            raise RecordError(f"{key} is {kind_of(value)}; expected a list of tools")
        _check_plain(value, key)
        return tuple(value) if key == "tools" else tuple({"type": "function", "function": tool} for tool in value)
    return ()


def says(value: object) -> bool:
    """Whether a value says anything: null, NaN, blank text and what is empty do not."""
    if isinstance(value, str):
        return bool(value.strip())
    return not _is_missing(value) and not (isinstance(value, list | tuple | Mapping) and not value)


def _is_missing(value: object) -> bool:
    """Whether a value is null, or the NaN that tables have in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {list: "a list", dict: "an object", bool: "true or false", type(None): "null", str: "text"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def _message(entry: object, name: str) -> Message:
    if not isinstance(entry, Mapping):
        raise RecordError(f"{name} is {kind_of(entry)}; expected an object with role and content")
    fields = {key: value for key, value in entry.items() if not _is_missing(value)}
    said = fields.get("role", fields.get("from"))
    role = _ROLE_NAMES.get(said, said) if isinstance(said, str) else said
    if role not in ROLES:
        raise RecordError(f"{name} has role {str(role)[:120]!r}; expected {', '.join((*ROLES, *_ROLE_NAMES))}")
    content, calls = fields.get("content", fields.get("value")), _calls(fields, name)
    if said == "function_call":
        content, calls = None, [_call(call, name) for call in _listed(_parsed(content, f"{name} content"))]
    if calls and role != "assistant":
        raise RecordError(f"{name} of role {role} has tool calls; only an assistant calls tools")
    message: dict[str, Any] = {"role": role, "content": _content(content, name) if content is not None else ""}
    if content is None and not calls:
        raise RecordError(f"{name} has content of type null; expected text")
    for key in ("reasoning_content", "tool_call_id", "name"):
        if key in fields:
            if not isinstance(fields[key], str):
                raise RecordError(f"{name} has {key} of type {kind_of(fields[key])}; expected text")
            message[key] = fields[key]
    return cast(Message, message | ({"tool_calls": calls} if calls else {}))


def _content(content: object, name: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise RecordError(f"{name} has content of type {kind_of(content)}; expected text or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else kind_of(part)
        text = part.get("text") if isinstance(part, Mapping) and kind in _TEXT_PARTS else part
        if not isinstance(text, str):
            raise RecordError(f"{name} has a part of kind {str(kind)[:120]!r}; only parts of text can be used")
        texts.append(text)
    return content_text({"role": "user", "content": [{"type": "text", "text": text} for text in texts]})


def _calls(fields: Mapping[str, Any], name: str) -> list[ToolCall]:
    calls = fields.get("tool_calls") or fields.get("function_call") or []
    return [_call(call, name) for call in _listed(calls)]


def _call(call: object, name: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecordError(f"{name} has a tool call without a name; expected a function with name and arguments")
    arguments = function.get("arguments")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping | str):
        raise RecordError(f"{name} has a tool call with arguments of type {kind_of(arguments)}; expected an object")
    _check_plain(arguments, f"{name} has a tool call that")
    found: ToolCall = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call, Mapping) and isinstance(call.get("id"), str):
        found["id"] = call["id"]
    return found


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]


def _parsed(value: object, name: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise RecordError(f"{name} is not valid JSON") from None


def _check_plain(value: object, what: str, depth: int = 0) -> None:
    """Raise RecordError unless JSON has this value, at most 64 levels deep: Parquet has dates, bytes and decimals."""
    if isinstance(value, Mapping | list | tuple):
        if depth == _DEEPEST:
            raise RecordError(f"{what} is nested more than {_DEEPEST} levels deep")
        for inner in members(value):
            _check_plain(inner, what, depth + 1)
    elif not isinstance(value, str | int | float | None):
        raise RecordError(f"{what} holds {kind_of(value)}; expected what JSON can hold")
