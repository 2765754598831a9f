"""Reading a request's body: strict JSON into a schema; what it holds and would have no effect is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from q3edge.server.errors import ApiError, bad_field
from q3edge.server.limits import MAX_MEMBERS, MAX_NESTED, MAX_VALUES

# Of OpenAI's own fields: they label, store or route a request, and change no answer.
_WITHOUT_EFFECT = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "prediction", "request_id",
    }
)  # fmt: skip
# Fields with the one value by which they ask for what is done anyway.
_ALREADY_SO: Mapping[str, tuple[object, ...]] = {
    "modalities": (["text"],), "best_of": (1,), "use_beam_search": (False,), "length_penalty": (1,), "suffix": ("",),
    "parallel_tool_calls": (True,), "skip_special_tokens": (True,), "spaces_between_special_tokens": (True, False),
    "add_generation_prompt": (True,), "continue_final_message": (False,), "include_reasoning": (True,),
    "echo": (False,), "add_special_tokens": (True, False), "cache_prompt": (True,), "functions": ([],), "tools": ([],),
    "encoding_format": ("float",), "truncation": ("disabled",), "background": (False,), "include": ([],),
    "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},),
}  # fmt: skip
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "dict", "list", "none"})  # in pydantic's places


class Body(BaseModel):
    """Schema of a request; a field that it has not is refused, unless it is without effect."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    missing: ClassVar[Mapping[str, str]] = {}  # fields that others have, and what to do instead


Schema = TypeVar("Schema", bound=Body)


def read_json(data: bytes) -> Any:
    """Read strict JSON: no NaN, at most some hundred levels. ApiError 400: it is none."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


def read_body(data: bytes, schema: type[Schema]) -> Schema:
    """Read a request's body. ApiError 400 names the first field that is unknown, missing or of another type."""
    fields = read_json(data)
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body is a JSON {type(fields).__name__}; expected an object", code="invalid_json")
    for name, value in fields.items():
        _check_known(str(name), value, schema)
        _check_size(name, value)
    try:
        return schema.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        problem = first["msg"].removeprefix("Value error, ")
        raise bad_field(_place(first["loc"]), problem[:1].lower() + problem[1:]) from None


def _check_known(name: str, value: object, schema: type[Body]) -> None:
    if value is None or name in _WITHOUT_EFFECT or (name in schema.model_fields and name not in schema.missing):
        return
    if any(value == same and isinstance(value, type(same)) for same in _ALREADY_SO.get(name, ())):
        return
    instead = schema.missing.get(name, "leave it out")
    raise ApiError(400, f"{name[:100]}: this field is not supported; {instead}", param=name[:100], code="unsupported")


def _check_size(name: str, value: object) -> None:
    """Refuse what would take seconds to check: a field with too many values, too many of which hold others."""
    values = nested = 0
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if not isinstance(found, dict | list):
            continue
        nested += 1
        values += len(found)
        if nested > MAX_NESTED or values > MAX_VALUES or (isinstance(found, dict) and len(found) > MAX_MEMBERS):
            raise bad_field(
                name,
                f"too much to check; expected at most {MAX_VALUES} values, {MAX_NESTED} lists and objects, and "
                f"{MAX_MEMBERS} members of one object",
            )
        waiting += found.values() if isinstance(found, dict) else found


def _place(parts: tuple[int | str, ...]) -> str:
    """Name of a field by pydantic's path: `stop[3]`, `stream_options.include_usage`."""
    place = ""
    for part in parts:
        if isinstance(part, int):
            place += f"[{part}]"
        elif "[" not in part and (part not in _TYPE_NAMES or not place):
            place += f".{part}" if place else part
    return place or "body"
