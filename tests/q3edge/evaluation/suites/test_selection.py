"""Which items a limited evaluation keeps."""

from __future__ import annotations

import pytest

from q3edge.errors import UsageError
from q3edge.evaluation.suites.selection import Selection, evenly_chosen
from q3edge.evaluation.suites.suite import Item, Suite


def suite(name: str, *areas: str) -> Suite:
    made = tuple(Item(f"{name}-{i}", "answer", area, "en", "?", "a", "a") for i, area in enumerate(areas))
    return Suite(name, (*made, Item(f"{name}-text", "text", areas[0], "en", "some text")), "00", "test")


def test_areas_and_limit() -> None:
    suites = (suite("a", *"xxyyzz"), suite("b", *"zz"))
    kept = Selection(("x", "y"), 2).apply(suites)
    assert [[item.id for item in found.items] for found in kept] == [["a-0", "a-2", "a-text"]]
    assert Selection().apply(suites) == suites


@pytest.mark.parametrize(
    ("selection", "message"), [(Selection(("q",)), "area 'q'.*x, y"), (Selection(limit=0), "limit 0")]
)
def test_refused(selection: Selection, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        selection.apply([suite("a", *"xy")])


def test_spread() -> None:
    assert evenly_chosen("abcdefgh", 4) == list("aceg")
    assert evenly_chosen("ab", 4) == evenly_chosen("ab", None) == ["a", "b"]
