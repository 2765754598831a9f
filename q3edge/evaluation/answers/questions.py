"""Answer accuracy: questions with one right answer, exact match of what the model says after thinking."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Any

from q3edge import progress
from q3edge.errors import InputError
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.runtime.text.thinking import THINK_END

_NORMAL_975 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Question:
    """One line of a questions file; `thinking` tells whether the model is asked to think first."""

    id: str
    area: str
    language: str
    thinking: bool
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back for a question; `given` is the text after thinking, stripped."""

    id: str
    given: str
    correct: bool


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """Fraction answered right, over all questions and by area, with 95 % Wilson intervals; and every answer given."""

    overall: Estimate
    by_area: Mapping[str, Estimate]
    answers: tuple[Answered, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


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


def final_answer(text: str) -> str:
    """What follows the last </think>, stripped; the whole text, stripped, where there is none."""
    return text.rpartition(THINK_END)[2].strip()


def wilson(correct: Sequence[bool]) -> Estimate:
    """The fraction that is true of at least one, with its 95 % score interval (Wilson 1927)."""
    total, share = len(correct), sum(correct) / len(correct)
    z2 = _NORMAL_975**2
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _NORMAL_975 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return Estimate(share, max(0.0, center - half), min(1.0, center + half))


def score_answers(questions: Sequence[Question], generate: Callable[[Question], str]) -> AnswerReport:
    """Ask every question (at least one); `generate` returns the raw text of the model's turn."""
    answers = []
    with progress.task("answers", len(questions)) as advance:
        for question in questions:
            given = final_answer(generate(question))
            answers.append(Answered(question.id, given, given == question.answer.strip()))
            advance(1)
    correct = [answer.correct for answer in answers]
    areas = dict.fromkeys(question.area for question in questions)
    by_area = {
        area: wilson([right for question, right in zip(questions, correct) if question.area == area]) for area in areas
    }
    return AnswerReport(wilson(correct), by_area, tuple(answers))


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
