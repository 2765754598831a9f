"""Formats as people give them: schemas as dicts or texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from q3edge.errors import UsageError
from q3edge.runtime.generation.answer_format import AnswerFormat
from q3edge.runtime.generation.settings import GenerationSettings

SCHEMA = {"type": "object", "properties": {"é": {"type": "integer"}}}


def test_settings_keep_a_schema_as_json_and_one_format_at_most() -> None:
    assert GenerationSettings().answer_format is None
    for given in (SCHEMA, json.dumps(SCHEMA)):
        found = GenerationSettings(schema=given).answer_format  # type: ignore[arg-type]
        assert found is not None
        assert (found.kind, json.loads(found.text)) == ("schema", SCHEMA)
    assert GenerationSettings().override(regex="a+").answer_format == AnswerFormat("regex", "a+")
    with pytest.raises(UsageError, match="schema and regex: an answer has one format"):
        GenerationSettings(schema="{}", regex="a")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"schema": "{"}, r"schema is not JSON \(.*character 1\)"),
        ({"schema": '{"minimum": NaN}'}, "schema is not JSON"),
        ({"schema": {"minimum": float("inf")}}, "schema holds a number that is not between -9007199254740992 and"),
        ({"schema": {"enum": [1, float("nan")]}}, "schema holds a number"),
        ({"schema": {"properties": {"a": {"maximum": 2**53 + 1}}}}, "schema holds a number"),
        ({"schema": {"const": -(10**500)}}, "schema holds a number"),
        ({"schema": '{"const": 1e300}'}, "schema holds a number"),
        ({"schema": "[" * 100_000}, "schema is not JSON"),
        ({"schema": '{"a":' * 100 + "1" + "}" * 100}, "schema is nested more than 64 levels"),
        ({"schema": "[]"}, "schema is JSON of type list"),
        (
            {"schema": {"enum": [f"value {i}" for i in range(70_000)]}},
            "schema = .*: expected at most 131072",
        ),
        ({"schema": {"a": "\ud800"}}, "schema is not valid Unicode"),
        ({"regex": "a" * 10**7}, "regex = .*: expected at most 131072 characters"),
        ({"regex": "\ud800"}, "regex is not valid Unicode"),
    ],
)
def test_a_format_out_of_bounds_is_refused_before_anything_compiles_it(named: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        GenerationSettings(**named)


@pytest.mark.parametrize("named", [{"schema": True}, {"schema": [1]}, {"regex": 3}, {"grammar": {"start": "a"}}])
def test_a_format_of_another_type_is_a_type_error(named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"^{next(iter(named))}: give a"):
        GenerationSettings(**named)
