"""The one vocabulary of areas: what has its words, and which other names are understood."""

from __future__ import annotations

from importlib.resources import files

import pytest

from q3edge.areas import AREA_WEIGHTS, AREAS, area_named
from q3edge.calibration.data import DEFAULT_SHARES
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.pipeline import demo


def test_calibration_suites_and_demo_have_the_same_areas() -> None:
    questions, texts = built_in_suites()
    assert sum(AREA_WEIGHTS.values()) == 100
    assert tuple(DEFAULT_SHARES) == tuple(demo._SHARES) == AREAS
    assert {item.area for item in questions.items} == set(AREAS)
    assert tuple(item.area for item in texts.items) == AREAS
    for folder, suffix in (("calibration", "jsonl"), ("validation", "txt")):
        assert all((files("q3edge.data") / folder / f"{area}.{suffix}").is_file() for area in AREAS)


@pytest.mark.parametrize(
    ("name", "area"), [("math", "math"), ("general", "knowledge"), ("maths", None), ("", None), (3, None), ([], None)]
)
def test_names_of_areas(name: object, area: str | None) -> None:
    assert area_named(name) == area
