"""`Saved`: a conversation as a JSON file, which appears whole or not at all and is checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from q3edge.errors import InputError, UsageError, unreadable
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.text.message_checks import check_message
from q3edge.runtime.text.messages import Message
from q3edge.storage.regular_files import read_regular
from q3edge.storage.text_files import decode_utf8, parse_json
from q3edge.storage.whole_files import write_whole

_MOST = 16 << 20  # bytes: many times the longest context
_FORMAT, _VERSION = "q3edge-conversation", 1
_ADVICE = "give another file: /save FILE"


class Saved(NamedTuple):
    """Messages, a system prompt first if there is one; whether the model thinks (None: its own way); settings."""

    messages: Sequence[Message]
    thinking: bool | None
    settings: Mapping[str, Any]


def save(path: Path, saved: Saved, *, force: bool = False) -> None:
    """Write a conversation; one that was saved there is replaced, and with `force` any file.

    UsageError: something else is there. ResourceError: the system refuses to write.
    """
    if not force and (path.exists() or path.is_symlink()):
        try:
            load(path)
        except InputError:
            raise UsageError(f"{path}: is no saved conversation; /save --force FILE replaces it") from None
    content = {"format": _FORMAT, "version": _VERSION, **saved._asdict()}
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", _ADVICE)


def load(path: Path) -> Saved:
    """Read a saved conversation. InputError: it cannot be read, has over 16 MiB, or is none, which the error says."""
    try:
        content = read_regular(path, _MOST)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); expected a saved conversation"
        raise unreadable(message, error) from None
    text = decode_utf8(content, lambda _line, problem: _refusal(path, f"not UTF-8: {problem}"))
    found = parse_json(text, lambda problem: _refusal(path, f"not JSON: {problem}"))
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise _refusal(path, f"it has no format {_FORMAT!r}")
    if found.get("version") != _VERSION:
        raise _refusal(path, f"version {found.get('version')!r}, and this q3edge reads {_VERSION}")
    if not isinstance(found.get("thinking"), bool | None):
        raise _refusal(path, "thinking: expected true, false or null")
    return Saved(_messages(path, found.get("messages")), found.get("thinking"), _settings(path, found.get("settings")))


def _messages(path: Path, messages: object) -> list[Message]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _refusal(path, "messages: expected a list of objects")
    for place, message in enumerate(messages):
        try:
            check_message(message)
        except UsageError as error:
            raise _refusal(path, f"messages[{place}]: {error}") from None
        if place and message["role"] == "system":
            raise _refusal(path, f"messages[{place}]: a system prompt comes first, or not at all")
    if messages and messages[0]["role"] == "system" and not isinstance(messages[0]["content"], str):
        raise _refusal(path, "messages[0]: expected a text as the system prompt")
    return messages


def _settings(path: Path, settings: object) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise _refusal(path, "settings: expected an object")
    try:
        GenerationSettings().override(settings)
    except (TypeError, UsageError) as error:
        raise _refusal(path, f"settings: {error}") from None
    return settings


def _refusal(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: not a conversation that /save wrote ({problem}); give another file")
