"""Scorecards survive JSON, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from q3edge.errors import InputError
from q3edge.evaluation.scorecard.scorecard import scorecard_from_json
from tests.helpers.reports import scorecard


def plain(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(scorecard("a", 0.1, 98.0).to_json(), allow_nan=False)), **changes}


def test_round_trip() -> None:
    assert scorecard_from_json(plain()) == scorecard("a", 0.1, 98.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "guessed"}, "Scorecard.mode: expected one of teacher-forced, generated"),
        ({"seconds": "3"}, "Scorecard.seconds: expected float"),
        ({"more": 1}, "Scorecard: expected exactly mode"),
        ({"areas": []}, "Scorecard.areas: expected an object"),
        ({"worst": [{}]}, r"Scorecard.worst\[0\]: expected exactly suite"),
        ({"histogram": {"edges": [0.0], "counts": ["a"]}}, r"Scorecard.histogram.counts\[0\]: expected int"),
        ({"recovery": {"value": 1.0, "low": None, "high": True}}, "Scorecard.recovery.high: expected float"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scorecard_from_json(plain(**changes))


def test_not_an_object() -> None:
    with pytest.raises(InputError, match="expected an object"):
        scorecard_from_json([])
