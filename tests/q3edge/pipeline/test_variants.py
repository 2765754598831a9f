"""Names of formats and what they stand for."""

from __future__ import annotations

import math

import pytest

from q3edge.errors import UsageError
from q3edge.pipeline.sweep.variants import parse_variants
from q3edge.quantization.recipe import Recipe


def scheme_of(name: str) -> str:
    recipe = parse_variants([name])[0].recipe
    assert recipe is not None
    scheme = recipe.rules[0].scheme
    assert scheme is not None
    return scheme.label()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("int4", "int4-g32-asym"),
        ("int4-g64", "int4-g64-asym"),
        ("int4-g128-sym", "int4-g128"),
        ("int4-fast", "int4-g256-asym"),
        ("int4-fast-g128-sym", "int4-g128"),
        ("int8", "int8-g16"),
        ("int8-g32-asym", "int8-g32-asym"),
        ("int2-g64", "int2-g64-asym"),
        ("int8-dynamic", "int8-channel-a8"),
    ],
)
def test_names_stand_for_schemes(name: str, label: str) -> None:
    assert scheme_of(name) == label


def test_order_method_budgets_and_baselines_are_kept() -> None:
    asked = parse_variants(["nf4", "float", "int4"], [4.5], "rtn")
    assert [variant.name for variant in asked] == ["nf4", "float", "int4", "bpw-4.5"]
    assert asked[0].baseline == "nf4"
    assert asked[1].recipe is None
    assert asked[2].recipe is not None
    assert asked[2].recipe.method == "rtn"
    assert asked[3].budget is not None
    assert asked[3].budget.bits_per_weight == 4.5
    assert parse_variants(["int8"])[0].recipe == Recipe.for_format("int8")


def test_budgets_are_taken_and_named_exactly() -> None:
    """Two budgets that differ in the seventh digit are two folders."""
    bits = (4.0, 3.1234567, 3.1234568, 0.1 + 0.2)
    asked = parse_variants([], bits)
    assert [variant.name for variant in asked] == ["bpw-4", "bpw-3.1234567", "bpw-3.1234568", "bpw-0.30000000000000004"]
    assert tuple(variant.budget.bits_per_weight for variant in asked if variant.budget) == bits


@pytest.mark.parametrize(
    ("formats", "targets", "words"),
    [
        (["int5"], [], "expected int8, int4-mixed, int4, int4-fast or int2"),
        (["int4-g"], [], "expected int8"),
        (["int4-g48"], [], "group_size = 48"),
        (["int8-dynamic-g32"], [], "leave out the group size"),
        (["int4", "int4-g32-asym"], [], "are the same"),
        (["nf4", "nf4"], [], "are the same"),
        ([], [math.nan], "bits per weight"),
        ([], [4.5, 4.5], "are the same"),
        ([], [], "nothing to build"),
    ],
)
def test_mistakes_are_refused(formats: list[str], targets: list[float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_variants(formats, targets)
