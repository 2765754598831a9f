"""Messages of a conversation and the tools it may use, in the form that OpenAI's API and chat templates share.

Every text in them can be read or replaced, in any field. Checks are in `message_checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict, cast, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)
# {"type": "function", "function": {name, description, parameters}}, written out by the template.
Tool = Mapping[str, Any]
_PARTS_APART = "\n"  # as llama.cpp and vLLM join parts where a template takes only text


class TextPart(TypedDict):
    """Part of a message's content."""

    type: Literal["text"]
    text: str


class FunctionCall(TypedDict):
    """Function that the model calls, and its arguments: an object, or one as JSON text."""

    name: str
    arguments: Mapping[str, Any] | str


class ToolCall(TypedDict):
    """Call of a function in an assistant's message."""

    function: FunctionCall
    type: NotRequired[Literal["function"]]
    id: NotRequired[str]


class Message(TypedDict):
    """One turn. `reasoning_content` and `tool_calls`, with which content may be missing, are an assistant's only."""

    role: Role
    content: NotRequired[str | Sequence[TextPart] | None]
    reasoning_content: NotRequired[str | None]
    tool_calls: NotRequired[Sequence[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


def texts(value: object) -> Iterator[str]:
    """Texts in a message, a tool or any other JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in members(value):
            yield from texts(inner)


def with_texts(message: Message, change: Callable[[str, str], str]) -> Message:
    """Copy of a message with each text but the role replaced by `change(field name, text)`."""
    changed = {
        name: value if name == "role" else changed_texts(value, partial(change, name))
        for name, value in message.items()
    }
    return cast(Message, changed)


def changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Copy of a JSON value with every text in it, keys included, replaced by `change(text)`."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): changed_texts(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [changed_texts(inner, change) for inner in value]
    return value


def content_text(message: Message) -> str:
    """Content of a message as one text: parts are joined by newlines, missing content is empty."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    return _PARTS_APART.join(part["text"] for part in content)


def template_message(message: Message) -> dict[str, Any]:
    """Message as a template gets it: content as one text, and no other field that is None."""
    fields = {name: value for name, value in message.items() if name == "content" or value is not None}
    return fields | {"content": content_text(message)}


def members(value: Mapping[Any, Any] | Sequence[Any]) -> Iterator[Any]:
    """Members of a list, or keys and then values of an object."""
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value
