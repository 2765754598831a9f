"""`Question`: q3edge's own questions with one right answer each, one line of JSON per question."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from q3edge.errors import InputError
from q3edge.storage.text_files import json_lines, read_utf8, refusal


@dataclass(frozen=True, slots=True)
class Question:
    """One line of a questions file; `thinking` tells whether the model is asked to think first."""

    id: str
    area: str
    language: str
    thinking: bool
    question: str
    answer: str


def read_questions(path: Path) -> list[Question]:
    """Read a JSON Lines file of questions; InputError names the file and line that differs from `Question`."""
    lines = json_lines(read_utf8(path), refusal(path, "not JSON"))
    questions = [question_of(raw, f"{path}, line {number}") for number, raw in lines]
    if not questions:
        raise InputError(f"{path}: no questions; expected one JSON object a line")
    return questions


def question_of(raw: object, where: str) -> Question:
    """The question in one line's JSON value; InputError begins with `where`."""
    wanted = {field.name: bool if field.name == "thinking" else str for field in fields(Question)}
    if not isinstance(raw, dict) or any(type(raw.get(name)) is not kind for name, kind in wanted.items()):
        raise InputError(
            f"{where}: expected an object with {', '.join(wanted)}; thinking is true or false, others text"
        )
    return Question(**{name: raw[name] for name in wanted})
