"""OpenAI's response_format becomes settings, or is refused by the name of a field."""

from __future__ import annotations

import json

import pytest

from q3edge.errors import UsageError
from q3edge.server.format_fields import response_format_settings

SCHEMA = {"type": "object", "properties": {"é": {"type": "integer"}}}


def test_response_formats_become_settings() -> None:
    assert response_format_settings({"type": "text"}) == {}
    assert response_format_settings({"type": "json_object"}) == {"schema": '{"type": "object"}'}
    described = {"name": "answer", "description": "x", "strict": True, "schema": SCHEMA}
    found = response_format_settings({"type": "json_schema", "json_schema": described})
    assert json.loads(found["schema"]) == SCHEMA


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("json_object", "response_format"),
        ({}, "response_format.type"),
        ({"type": ["text"]}, "response_format.type"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_object", "schema": {}}, "response_format.schema"),
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": "{}"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "other": 1}}, "response_format.json_schema.other"),
        ({"type": "json_schema", "json_schema": {"schema": {"a": float("nan")}}}, "response_format.json_schema.schema"),
    ],
)
def test_a_response_format_that_is_none_names_the_field(value: object, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        response_format_settings(value)
    assert str(caught.value).startswith(f"{field}{' ' if 'holds' in str(caught.value) else ':'}")
