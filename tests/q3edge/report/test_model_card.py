"""The model card names the runtimes that were tried with a folder of this kind, and docs have the same lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from q3edge.artifact import Manifest
from q3edge.formats import FORMATS, CacheType
from q3edge.quantization.recipe import Recipe
from q3edge.report.model_card import model_card
from q3edge.report.runtimes import EXACT_SUMS, EXPERTS, INT8_CACHE, RUNTIMES, Runtime

DOCS = Path(__file__).resolve().parents[3] / "docs" / "interop.md"


def card(format_name: str, kv_cache: CacheType = "float32") -> str:
    recipe = replace(Recipe.for_format(format_name), kv_cache=kv_cache)
    return model_card(Manifest("onnx", "parent", recipe.to_json(), metrics={"model_bytes": 1}))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_each_runtime_is_told_with_its_lines_where_it_runs_the_model(runtime: Runtime) -> None:
    told = f"{runtime.name} ({runtime.versions}):\n\n{runtime.code}"
    assert told in card("int4")
    assert (told in card("int4", "int8")) == runtime.int8_cache


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_a_mixture_names_the_runtimes_that_have_its_operators(runtime: Runtime) -> None:
    recipe = Recipe.for_format("int4").to_json()
    operator, plain = (
        model_card(Manifest("onnx", "parent", recipe, metrics={"model_bytes": 1, "experts": operators}))
        for operators in ("qmoe", "plain")
    )
    assert (f"{runtime.name} ({runtime.experts}):\n\n{runtime.code}" in operator) == bool(runtime.experts)
    assert (runtime.code in operator) == bool(runtime.experts)
    assert f"{runtime.name} ({runtime.versions}):\n\n{runtime.code}" in plain
    assert EXPERTS in operator
    assert EXPERTS not in plain


def test_what_an_int8_cache_needs_is_told_with_one() -> None:
    assert INT8_CACHE in card("int4", "int8")
    assert INT8_CACHE not in card("int4")
    assert INT8_CACHE in DOCS.read_text(encoding="utf-8")


def test_exact_sums_are_told_where_products_are_int8() -> None:
    assert [EXACT_SUMS in card(name) for name in FORMATS] == [name == "int8-dynamic" for name in FORMATS]


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_docs_have_the_same_lines_and_versions(runtime: Runtime) -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert runtime.code in text
    assert f"## {runtime.name}\n\nTried: {runtime.versions}." in text
