"""Messages and tools as clients send them, in the form that the library takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from q3edge.runtime.text.message_checks import check_message
from q3edge.runtime.text.messages import Message
from q3edge.server.errors import about, bad_field

_ROLES = {"developer": "system"}  # OpenAI's newer name
_FIELDS = {"reasoning": "reasoning_content"}  # vLLM's newer name
_ANSWER_ONLY = ("refusal", "annotations", "audio", "function_call")  # of an answer that a client sends back


def read_messages(messages: Sequence[Mapping[str, Any]], places: Sequence[str] | None = None) -> list[Message]:
    """Check messages. ApiError 400 names the first that is invalid; `places`: where each stands in the request."""
    found = []
    for place, message in zip(places or [f"messages[{number}]" for number in range(len(messages))], messages):
        fields = {_FIELDS.get(name, name): value for name, value in message.items() if not _empty(name, value)}
        role = fields.get("role")
        if not isinstance(role, str):
            raise bad_field(f"{place}.role", "expected text")
        read = cast(Message, fields | {"role": _ROLES.get(role, role)})
        with about(place):
            check_message(read)
        found.append(read)
    return found


def _empty(name: str, value: object) -> bool:
    return (value is None and name != "content") or (name in (*_ANSWER_ONLY, "tool_calls") and value == [])
