"""`tool_format`: an answer of calls of tools alone, in Qwen3's form, with arguments by their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from q3edge.errors import UsageError
from q3edge.runtime.generation.answer_format import JSON_OPTIONS, AnswerFormat, schema_text
from q3edge.runtime.generation.setting_table import MAX_FORMAT_LENGTH
from q3edge.runtime.text.messages import Tool

FREE, FORCED = "auto", "required"  # choices of a tool that are no name of one
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def tool_format(tools: Sequence[Tool] | None, choice: str, *, parallel: bool) -> AnswerFormat | None:
    """Format of an answer that calls tools: any for `FORCED`, else the one that `choice` names; None for `FREE`.

    parallel: it may call several. UsageError: there are no tools, none has the name, or one has no name or has
    parameters that are no JSON Schema of an object.
    """
    if choice == FREE:
        return None
    functions = [_function(tool) for tool in tools or ()]
    if choice != FORCED:
        functions = [function for function in functions if function["name"] == choice]
    if not functions:
        raise UsageError(f"tool_choice = {choice}: there is no such tool; expected {FREE}, {FORCED} or a tool's name")
    calls = " | ".join(f"call{number}" for number in range(len(functions)))
    rules = [r'start: call ("\n" call)*' if parallel else "start: call", rf'call: open "\n" ({calls}) "\n" close']
    for number, function in enumerate(functions):
        name = json.dumps(function["name"], ensure_ascii=False)
        before = json.dumps(f'{{"name": {name}, "arguments": ', ensure_ascii=False)
        rules.append(f'call{number}: {before} arguments{number} "}}"')
        rules.append(f"arguments{number}: %json {_schema(function)}")
    text = "\n".join(rules)
    if len(text) > MAX_FORMAT_LENGTH:
        raise UsageError(f"tools: their schemas have {len(text)} characters; expected at most {MAX_FORMAT_LENGTH}")
    return AnswerFormat("tools", text)


def _function(tool: Tool) -> Mapping[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError("tools: a tool has no function with a name, so that it cannot be chosen")
    return function


def _schema(function: Mapping[str, Any]) -> str:
    """JSON Schema of a function's arguments, on one line."""
    place = f"tools: the parameters of {function['name']}"
    given = function.get("parameters")
    if given is None:
        given = _NO_ARGUMENTS
    if not isinstance(given, Mapping) or given.get("type", "object") != "object":
        raise UsageError(f"{place} are no JSON Schema of an object, so that they cannot be held to it")
    return schema_text(place, {**given, "type": "object", "x-guidance": JSON_OPTIONS})
