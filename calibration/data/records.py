"""Interpretation of records: a record with keys (a JSON line, a table's row) -> a document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from q3edge.areas import area_named
from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.turns import RecordError, kind_of, messages_of, says, tools_of
from q3edge.runtime.text.messages import Message

DIALOGUE_KEYS = ("messages", "conversations")
PAIR_KEYS = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
CODE_KEYS = ("prompt", "canonical_solution")  # the solution continues the prompt: one program, no dialogue
TEXT_KEYS = ("text", "content")
# What a record may hold, each with the keys that it needs: dialogues first, as they say more than their text would.
_FORMS = (*((key,) for key in DIALOGUE_KEYS), *PAIR_KEYS, CODE_KEYS, *((key,) for key in TEXT_KEYS))
USABLE = ", ".join([*TEXT_KEYS, *DIALOGUE_KEYS, *("+".join(pair) for pair in (*PAIR_KEYS, CODE_KEYS))])
ALL_KEYS = frozenset(key for form in _FORMS for key in form) | {
    "input", "tools", "functions", "area", "domain", "language",
}  # fmt: skip
_LANGUAGE_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Location of a record: the index of its file and the line or row; `area`: of the file's name."""

    source: int
    number: int
    area: str | None = None


class BadRecord(NamedTuple):
    """A record that makes no document: its line or row, and what is wrong with it."""

    number: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.problem}"


def read_record(record: object, place: RecordPlace) -> Document | BadRecord:
    """Build the document that a record's keys describe, in any case of letters; unknown keys are ignored.

    The first form counts whose keys all have a value: null, a number that is none, blank text and an empty list are
    none. A record with the keys of a form but no values is an empty document.
    """
    try:
        return _document(record, place)
    except RecordError as error:
        return BadRecord(place.number, str(error))


def makes_record(names: Iterable[str]) -> bool:
    """Tell whether a table's first row holds names of text columns."""
    known = {name.strip().lower() for name in names}
    return bool(known & set(TEXT_KEYS)) or any(known.issuperset(pair) for pair in (*PAIR_KEYS, CODE_KEYS))


def question_and_answer(question: str, answer: str) -> tuple[Message, ...]:
    """Dialogue of one turn."""
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


def _document(record: object, place: RecordPlace) -> Document:
    if not isinstance(record, Mapping):
        raise RecordError(f"expected an object with {USABLE}; found {kind_of(record)}")
    fields: dict[str, Any] = {}
    for key, value in record.items():  # of names that differ in their letters' case, the first that has a value
        name = str(key).strip().lower()
        if not says(fields.get(name)):
            fields[name] = value
    form = _form(fields)
    area = place.area or area_named(fields.get("area")) or area_named(fields.get("domain"))
    language = fields.get("language")
    tagged = isinstance(language, str) and _LANGUAGE_TAG.fullmatch(language)
    text, messages, is_code = _content(fields, form)
    return Document(
        source=place.source,
        number=place.number,
        text=text,
        messages=messages,
        tools=tools_of(fields) if form[0] in DIALOGUE_KEYS else (),
        is_code=is_code,
        area=area,
        language=language if tagged else None,
    )


def _form(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that the record's content is taken from."""
    there = [form for form in _FORMS if fields.keys() >= set(form)]
    if not there:
        raise RecordError(f"keys {', '.join(fields)[:120] or 'none'}; expected {USABLE}")
    return next((form for form in there if all(says(fields[key]) for key in form)), there[0])


def _content(fields: Mapping[str, Any], form: tuple[str, ...]) -> tuple[str, tuple[Message, ...], bool]:
    """Text, messages, and whether the text is code."""
    if form[0] in DIALOGUE_KEYS:
        value = fields[form[0]]
        return "", messages_of(value, form[0]) if says(value) else (), False
    texts = [_text(fields, key) for key in form]
    if form == CODE_KEYS:
        return "".join(texts), (), True
    if len(texts) == 1:
        return texts[0], (), False
    question, answer = texts
    if form[0] == "instruction" and says(fields.get("input")):
        question += "\n\n" + _text(fields, "input")
    return "", question_and_answer(question, answer), False


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields[key]
    if not says(value):
        return ""  # a table's missing cell; filtered as empty
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # an answer such as 18
    if not isinstance(value, str):
        raise RecordError(f"{key} is {kind_of(value)}; expected text")
    return value
