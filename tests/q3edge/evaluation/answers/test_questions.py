"""Answers: what counts as one, what counts as right, and the interval of the fraction."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from q3edge.evaluation.answers.questions import score_answers
from q3edge.evaluation.distance.statistics import wilson
from q3edge.evaluation.suites.question_files import Question


def test_score_by_area() -> None:
    questions = [Question(f"{area}-{i}", area, "en", False, str(i), str(i)) for area in "ab" for i in range(4)]
    report = score_answers(questions, lambda q: f" {q.question if q.area == 'a' else '0'}\n")
    assert report.overall.value == 5 / 8
    assert {area: found.value for area, found in report.by_area.items()} == {"a": 1.0, "b": 0.25}
    assert [answer.given for answer in report.answers] == ["0", "1", "2", "3", "0", "0", "0", "0"]
    assert json.loads(json.dumps(report.to_json()))["by_area"]["b"]["value"] == 0.25


def test_wilson_against_published_values() -> None:
    """15 of 148: Newcombe 1998, Statistics in Medicine 17, table I."""
    found = wilson([True] * 15 + [False] * 133)
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (0.0624, 0.1605)


@given(st.integers(1, 200), st.data())
def test_interval_contains_the_fraction(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    found = wilson([True] * correct + [False] * (total - correct))
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
