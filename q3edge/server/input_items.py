"""Items of OpenAI's Responses API as messages: the thinking, text and calls of an answer are an item each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from q3edge.runtime.text.messages import Message
from q3edge.server.conversation import read_messages
from q3edge.server.errors import bad_field

_Item = Mapping[str, Any]
_TEXT_PARTS = ("input_text", "output_text", "text")
_OF_ALL = frozenset({"type", "id", "status"})  # fields; the last two are how a server has kept an item


def read_items(items: str | Sequence[_Item], instructions: str | None) -> list[Message]:
    """Make messages of items; instructions go before them, as the system's. ApiError 400 names what is invalid."""
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
        places.append("instructions")
    for number, item in enumerate([{"role": "user", "content": items}] if isinstance(items, str) else items):
        place = "input" if isinstance(items, str) else f"input[{number}]"
        kind = item.get("type") or "message"
        if not isinstance(kind, str) or kind not in _KINDS:
            raise bad_field(f"{place}.type", f"expected one of {', '.join(_KINDS)}; nothing is stored here")
        read, fields = _KINDS[kind]
        if unknown := [name for name, value in item.items() if value is not None and name not in fields | _OF_ALL]:
            raise bad_field(f"{place}.{unknown[0][:100]}", "this field is not supported; leave it out")
        message = read(item, place)
        if not messages or not _joined(messages[-1], message):
            messages.append(message)
            places.append(place)
    for message in messages:
        if "tool_calls" not in message:
            message.setdefault("content", "")  # thinking alone
    return read_messages(messages, places)


def _joined(last: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether `last` and `new` are parts of one answer, which then is `last`."""
    if last["role"] != "assistant" or new["role"] != "assistant":
        return False
    if "tool_calls" in new:
        last.setdefault("tool_calls", []).extend(new["tool_calls"])
    elif "content" in last or "tool_calls" in last:
        return False
    else:
        last.update(new)
    return True


def _message(item: _Item, place: str) -> dict[str, Any]:
    return {"role": item.get("role"), "content": _content(item.get("content"), f"{place}.content")}


def _thinking(item: _Item, place: str) -> dict[str, Any]:
    """Thinking, whether a server has told it as content or as summary."""
    name = "content" if item.get("content") else "summary"
    parts = item.get(name) or []
    found = []
    for number, part in enumerate(parts if isinstance(parts, list) else [parts]):
        if not isinstance(part, Mapping) or part.get("type") not in ("reasoning_text", "summary_text"):
            raise bad_field(f"{place}.{name}[{number}].type", "expected reasoning_text or summary_text")
        found.append(_text(part, "text", f"{place}.{name}[{number}]"))
    return {"role": "assistant", "reasoning_content": "\n".join(found)}


def _call(item: _Item, place: str) -> dict[str, Any]:
    function = {name: _text(item, name, place) for name in ("name", "arguments")}
    return {"role": "assistant", "tool_calls": [{"id": _text(item, "call_id", place), "function": function}]}


def _result(item: _Item, place: str) -> dict[str, Any]:
    content = _content(item.get("output"), f"{place}.output")
    return {"role": "tool", "tool_call_id": _text(item, "call_id", place), "content": content}


def _content(content: object, place: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_field(place, "expected text or a list of parts")
    found = []
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") not in _TEXT_PARTS:
            raise bad_field(f"{place}[{number}].type", "expected input_text or output_text, as models read text alone")
        found.append({"type": "text", "text": _text(part, "text", f"{place}[{number}]")})
    return found


def _text(fields: _Item, name: str, place: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise bad_field(f"{place}.{name}", "expected text")
    return value


_KINDS: Mapping[str, tuple[Callable[[_Item, str], dict[str, Any]], frozenset[str]]] = {
    "message": (_message, frozenset({"role", "content", "phase"})),
    "reasoning": (_thinking, frozenset({"content", "summary"})),
    "function_call": (_call, frozenset({"call_id", "name", "arguments"})),
    "function_call_output": (_result, frozenset({"call_id", "output", "name"})),
}
