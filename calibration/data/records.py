"""Interpretation of records: a record with keys (a JSON line, a table's row) -> a document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from q3edge.areas import area_named
from q3edge.calibration.data.documents import Document
from q3edge.errors import InputError
from q3edge.runtime.text.messages import ROLES, Message

DIALOGUE_KEYS = ("messages", "conversations")
PAIR_KEYS = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
CODE_KEYS = ("prompt", "canonical_solution")  # the solution continues the prompt: one program, no dialogue
TEXT_KEYS = ("text", "content")
USABLE = ", ".join([*TEXT_KEYS, *DIALOGUE_KEYS, *("+".join(pair) for pair in (*PAIR_KEYS, CODE_KEYS))])
ALL_KEYS = frozenset([*TEXT_KEYS, *DIALOGUE_KEYS, *CODE_KEYS, *(key for pair in PAIR_KEYS for key in pair)]) | {
    "input", "area", "domain", "language",
}  # fmt: skip
_NAMES = {"human": "user", "gpt": "assistant"}  # the names of "from" in conversations that have no "role"
_LANGUAGE_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Location of a record: the file's label for errors, its index and the line or row; `area`: of the file's name."""

    label: str
    source: int
    number: int
    area: str | None = None

    def error(self, problem: str) -> InputError:
        """InputError that names file and line."""
        return InputError(f"{self.label}: line {self.number}: {problem}")


def document_of(record: object, place: RecordPlace) -> Document:
    """Build the document that a record's keys describe, in any case of letters; unknown keys are ignored.

    InputError: not an object, no usable keys, or a value of the wrong type.
    """
    if not isinstance(record, Mapping):
        raise place.error(f"expected an object with {USABLE}; found {_type(record)}")
    fields = {str(key).strip().lower(): value for key, value in record.items()}
    text, messages, is_code = _content(fields, place)
    area = place.area or area_named(fields.get("area")) or area_named(fields.get("domain"))
    language = fields.get("language")
    tagged = isinstance(language, str) and _LANGUAGE_TAG.fullmatch(language)
    return Document(
        source=place.source,
        number=place.number,
        text=text,
        messages=messages,
        is_code=is_code,
        area=area,
        language=language if tagged else None,
    )


def makes_record(names: Iterable[str]) -> bool:
    """Tell whether a table's first row holds names of text columns."""
    known = {name.strip().lower() for name in names}
    return bool(known & set(TEXT_KEYS)) or any(known.issuperset(pair) for pair in (*PAIR_KEYS, CODE_KEYS))


def question_and_answer(question: str, answer: str) -> tuple[Message, ...]:
    """Dialogue of one turn."""
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


def _content(fields: Mapping[str, Any], place: RecordPlace) -> tuple[str, tuple[Message, ...], bool]:
    """Text, messages, and whether the text is code: dialogues first, as they say more than their text would."""
    for key in DIALOGUE_KEYS:
        if key in fields:
            return "", _messages(fields[key], key, place), False
    for first, second in PAIR_KEYS:
        if first in fields and second in fields:
            question = _text(fields, first, place)
            if first == "instruction" and fields.get("input"):
                question += "\n\n" + _text(fields, "input", place)
            return "", question_and_answer(question, _text(fields, second, place)), False
    if all(key in fields for key in CODE_KEYS):
        return "".join(_text(fields, key, place) for key in CODE_KEYS), (), True
    for key in TEXT_KEYS:
        if key in fields:
            return _text(fields, key, place), (), False
    raise place.error(f"keys {', '.join(fields)[:120] or 'none'}; expected {USABLE}")


def _messages(value: object, key: str, place: RecordPlace) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise place.error(f"{key} is {_type(value)}; expected a list of messages with role and content")
    return tuple(_message(entry, f"{key}[{index}]", place) for index, entry in enumerate(value))


def _message(entry: object, name: str, place: RecordPlace) -> Message:
    if not isinstance(entry, Mapping):
        raise place.error(f"{name} is {_type(entry)}; expected an object with role and content")
    role = entry.get("role", entry.get("from"))
    role = _NAMES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise place.error(f"{name} has role {str(role)[:120]!r}; expected {', '.join(ROLES)}, human or gpt")
    content, reasoning = entry.get("content", entry.get("value")), entry.get("reasoning_content")
    if not isinstance(content, str):
        raise place.error(f"{name} has content of type {_type(content)}; expected text")
    if reasoning is None:
        return {"role": role, "content": content}
    if not isinstance(reasoning, str):
        raise place.error(f"{name} has reasoning_content of type {_type(reasoning)}; expected text")
    return {"role": role, "content": content, "reasoning_content": reasoning}


def _text(fields: Mapping[str, Any], key: str, place: RecordPlace) -> str:
    value = fields[key]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # an answer such as 18
    if value is None:
        return ""  # a table's missing cell; filtered as empty
    if not isinstance(value, str):
        raise place.error(f"{key} is {_type(value)}; expected text")
    return value


def _type(value: object) -> str:
    names = {list: "a list", dict: "an object", bool: "true or false", type(None): "null", str: "text"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
