"""`AnswerFormat`: what an answer has to look like: JSON of a schema, a regular expression, a grammar or calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from q3edge.errors import UsageError
from q3edge.runtime.text.message_checks import check_plain, refuse_constant
from q3edge.runtime.text.messages import members

Kind = Literal["schema", "regex", "grammar", "tools"]
# White space between two parts of JSON is a space, or a line end and an indent: models that may write more often go on.
JSON_OPTIONS: Any = {"whitespace_pattern": r"(\x20|\n[\x20\t]{0,16})?", "lenient": False}
_GREATEST = 2**53  # beyond it the library rounds numbers, or takes them for others


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """Format of an answer; text: a JSON Schema as JSON, a regular expression, or a grammar in Lark's notation.

    That of calls of tools (`tool_format`) leaves open what `open` and `close` are, the tags around one.
    """

    kind: Kind
    text: str


def schema_text(name: str, value: object) -> str:
    """JSON text of a JSON Schema, given as a dict or such a text; `name` names it in errors.

    TypeError: it is neither. UsageError: no JSON, no object, nested more than 64 levels deep, or a number beyond 53
    bits, which the library would take for another.
    """
    if isinstance(value, str):
        value = _parsed(name, value)
        if not isinstance(value, dict):
            raise UsageError(f"{name} is JSON of type {type(value).__name__}; expected an object, a JSON Schema")
    elif not isinstance(value, Mapping):
        raise TypeError(f"{name}: give a JSON Schema as a dict or as JSON text, not {type(value).__name__}")
    check_plain(value, name)
    _check_numbers(value, name)
    return json.dumps(value, ensure_ascii=False, default=dict)


def _check_numbers(value: object, name: str) -> None:
    if isinstance(value, float | int) and not abs(value) <= _GREATEST:  # NaN neither
        raise UsageError(f"{name} holds a number that is not between -{_GREATEST} and {_GREATEST}; leave it out")
    if isinstance(value, Mapping | list | tuple):
        for inner in members(value):
            _check_numbers(inner, name)


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise UsageError(f"{name} is not JSON ({error.msg}, character {error.pos}); expected a JSON Schema") from None
    except (ValueError, RecursionError):
        raise UsageError(
            f"{name} is not JSON (too deep, or a number that JSON has not); expected a JSON Schema"
        ) from None
