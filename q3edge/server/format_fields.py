"""`response_format_settings`: what an answer has to look like, as OpenAI's API says it; `check_formats`: if it can."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from q3edge.errors import UsageError
from q3edge.runtime.generation.answer_format import schema_text
from q3edge.server.errors import ApiError

_ANY_OBJECT = '{"type": "object"}'
_SCHEMA_FIELDS = ("name", "description", "schema", "strict")  # of json_schema


def check_formats(name: str) -> None:
    """Raise ApiError 400, which names the field, where nothing is installed that holds an answer to a format."""
    if find_spec("llguidance") is None:
        missing = "this server has no llguidance, the package that holds answers to a format; leave it out"
        raise ApiError(400, f"{name}: {missing}", param=name, code="unsupported")


def response_format_settings(value: object, name: str = "response_format") -> dict[str, Any]:
    """Settings for a `response_format` of OpenAI's API: `schema` for json_schema and json_object, none for text.

    UsageError, which names the field: it is of no such form, or has a field that nothing here follows. ApiError: as
    `check_formats`.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f'{name}: expected an object such as {{"type": "json_object"}}')
    kind = value.get("type")
    fields = {"text": {"type"}, "json_object": {"type"}, "json_schema": {"type", "json_schema"}}
    if not isinstance(kind, str) or kind not in fields:
        raise UsageError(f"{name}.type: expected one of {', '.join(fields)}")
    if unknown := value.keys() - fields[kind]:
        raise UsageError(f"{name}.{min(map(str, unknown))}: no field of the type {kind}; leave it out")
    if kind == "text":
        return {}
    check_formats(name)
    if kind == "json_object":
        return {"schema": _ANY_OBJECT}
    described = value.get("json_schema")
    if not isinstance(described, Mapping) or not isinstance(described.get("schema"), Mapping):
        raise UsageError(f"{name}.json_schema.schema: expected a JSON Schema")
    if unknown := described.keys() - set(_SCHEMA_FIELDS):
        raise UsageError(f"{name}.json_schema.{min(map(str, unknown))}: expected some of {', '.join(_SCHEMA_FIELDS)}")
    return {"schema": schema_text(f"{name}.json_schema.schema", described["schema"])}
