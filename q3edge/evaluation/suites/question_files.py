"""`Question`: q3edge's own questions with one right answer each, a line of JSON apiece."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from q3edge.errors import InputError


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a UTF-8 JSON Lines file") from None
    questions = [parse_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InputError(f"{path}: no questions; expected one JSON object a line")
    return questions


def parse_question(line: str, where: str) -> Question:
    """One line of a questions file; InputError begins with `where`."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    wanted = {field.name: bool if field.name == "thinking" else str for field in fields(Question)}
    if not isinstance(raw, dict) or any(type(raw.get(name)) is not kind for name, kind in wanted.items()):
        raise InputError(
            f"{where}: expected an object with {', '.join(wanted)}; thinking is true or false, others text"
        )
    return Question(**{name: raw[name] for name in wanted})
