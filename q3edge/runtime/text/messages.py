"""Messages of a conversation and the tools it may use, in the form that OpenAI's API and chat templates share.

Owns their texts: every one can be read or replaced, in whichever field it stands. What is refused says message_checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict, cast, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)
# As the template writes it: {"type": "function", "function": {name, description, parameters}}.
Tool = Mapping[str, Any]
_PARTS_APART = "\n"  # as llama.cpp and vLLM join parts where a template takes only text


class TextPart(TypedDict):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class FunctionCall(TypedDict):
    """What the model calls; the arguments are an object, or one as JSON text."""

    name: str
    arguments: Mapping[str, Any] | str


class ToolCall(TypedDict):
    """One call in an assistant's message."""

    function: FunctionCall
    type: NotRequired[Literal["function"]]
    id: NotRequired[str]


class Message(TypedDict):
    """One turn. Only an assistant's has `reasoning_content` and `tool_calls`, with which its content may be missing."""

    role: Role
    content: NotRequired[str | Sequence[TextPart] | None]
    reasoning_content: NotRequired[str | None]
    tool_calls: NotRequired[Sequence[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


def texts(value: object) -> Iterator[str]:
    """Every text in a message, a tool or any other JSON value: names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in members(value):
            yield from texts(inner)


def with_texts(message: Message, change: Callable[[str, str], str]) -> Message:
    """The message with all text but the role replaced by what `change` gives for the field's name and the text."""
    changed = {
        name: value if name == "role" else changed_texts(value, partial(change, name))
        for name, value in message.items()
    }
    return cast(Message, changed)


def changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it, keys too, replaced by what `change` gives for it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): changed_texts(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [changed_texts(inner, change) for inner in value]
    return value


def content_text(message: Message) -> str:
    """The content as one text: parts stand on lines of their own, missing content is empty."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    return _PARTS_APART.join(part["text"] for part in content)


def template_message(message: Message) -> dict[str, Any]:
    """What a template is given: content as one text, and no field that is None."""
    fields = {name: value for name, value in message.items() if name == "content" or value is not None}
    return fields | {"content": content_text(message)}


def members(value: Mapping[Any, Any] | Sequence[Any]) -> Iterator[Any]:
    """What an object (its keys too) or a list holds."""
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value
