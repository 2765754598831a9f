"""Answer accuracy: questions with one right answer, exact match of the text after thinking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from q3edge import progress
from q3edge.evaluation.distance.statistics import Estimate, wilson
from q3edge.evaluation.suites.question_files import Question


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """Answer given to a question; `given` is the text after thinking, stripped."""

    id: str
    given: str
    correct: bool


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """Fraction answered right, over all questions and by area, with 95 % Wilson intervals; and every answer given."""

    overall: Estimate
    by_area: Mapping[str, Estimate]
    answers: tuple[GivenAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def score_answers(questions: Sequence[Question], generate: Callable[[Question], str]) -> AnswerReport:
    """Ask every question (at least one) and score the answers; `generate` returns the answer without its thinking."""
    answers = []
    with progress.task("answers", len(questions)) as advance:
        for question in questions:
            given = generate(question).strip()
            answers.append(GivenAnswer(question.id, given, given == question.answer.strip()))
            advance(1)
    correct = [answer.correct for answer in answers]
    areas = dict.fromkeys(question.area for question in questions)
    by_area = {
        area: wilson([right for question, right in zip(questions, correct) if question.area == area]) for area in areas
    }
    return AnswerReport(wilson(correct), by_area, tuple(answers))
