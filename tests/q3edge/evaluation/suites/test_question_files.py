"""q3edge's own questions: every line is one, or is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from q3edge.errors import InputError
from q3edge.evaluation.suites.question_files import Question, read_questions

LINE: dict[str, Any] = {"id": "a-1", "area": "a", "language": "en", "thinking": True, "question": "1+1?", "answer": "2"}


def write_lines(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_read_questions(tmp_path: Path) -> None:
    path = write_lines(tmp_path, json.dumps(LINE), "", json.dumps({**LINE, "note": "ignored"}))
    assert read_questions(path) == [Question(**LINE)] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: expected an object with id, area, language, thinking"),
        (json.dumps({**LINE, "thinking": "no"}), "line 2: expected an object"),
        (json.dumps({**LINE, "answer": 2}), "line 2: expected an object"),
    ],
)
def test_broken_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_questions(write_lines(tmp_path, json.dumps(LINE), line))


def test_no_questions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no questions"):
        read_questions(write_lines(tmp_path, ""))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"questions\.jsonl: cannot be read"):
        read_questions(tmp_path / "questions.jsonl")
