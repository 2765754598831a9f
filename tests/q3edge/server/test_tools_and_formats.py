"""Tools and answer formats of a real server; the calls are those of a model whose tokens are written beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from q3edge.server import format_fields
from q3edge.server.errors import ApiError
from q3edge.server.tool_fields import ToolsFields
from tests.helpers.server import RunningServer, running_server, scripted_model

CHAT = "/v1/chat/completions"
ASKED: list[Any] = [{"role": "user", "content": "What is 2 + 3 and 4 + 5?"}]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
TAKE: Any = {  # what an answer of chance holds soon enough
    "type": "function",
    "function": {
        "name": "take",
        "strict": True,
        "parameters": {"properties": {"fruit": {"$ref": "#/$defs/fruit"}}, "required": ["fruit"],
                       "additionalProperties": False, "$defs": {"fruit": {"enum": ["apple", "pear"]}}},
    },
}  # fmt: skip
CALLS = [{"a": 2, "b": 3}, {"a": 4, "b": 5}]
SAID = "Two sums.\n" + "\n".join(
    f'<tool_call>\n{{"name": "add", "arguments": {json.dumps(call)}}}\n</tool_call>' for call in CALLS
)


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.fixture(scope="module")
def scripted(artifact: Path) -> Iterator[RunningServer]:
    with running_server(artifact, first=scripted_model(SAID)) as server:
        yield server


def test_calls_of_tools_are_apart_from_the_text(scripted: RunningServer) -> None:
    with openai.OpenAI(base_url=f"{scripted.address}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model="demo", messages=ASKED, tools=[ADD], extra_body=NO_THINKING)
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Two sums.")
        assert choice.message.tool_calls is not None
        functions: list[Any] = [call.function for call in choice.message.tool_calls if call.type == "function"]
        assert [(each.name, json.loads(each.arguments)) for each in functions] == [("add", call) for call in CALLS]
        assert len({call.id for call in choice.message.tool_calls}) == 2
        with client.chat.completions.stream(
            model="demo",
            messages=ASKED,
            tools=[ADD],
            extra_body=NO_THINKING,
        ) as stream:
            text = "".join(event.delta for event in stream if event.type == "content.delta")
            final = stream.get_final_completion().choices[0]
        assert text == "Two sums."
        assert final.finish_reason == "tool_calls"
        assert [json.loads(call.function.arguments) for call in final.message.tool_calls or ()] == CALLS
        back = [*ASKED, choice.message.model_dump(exclude_none=True)]
        results = [{"role": "tool", "tool_call_id": call.id, "content": "5"} for call in choice.message.tool_calls]
        again = scripted.post(CHAT, {"messages": [*back, *results], "tools": [ADD]})
        assert again.status_code == 200, again.text


def test_functions_of_responses_are_called_and_their_results_go_back(scripted: RunningServer) -> None:
    asked: dict[str, Any] = {
        "model": "demo", "temperature": 0, "tools": [{"type": "function", "strict": False, **ADD["function"]}],
        "reasoning": {"effort": "none"}, "parallel_tool_calls": False,
    }  # fmt: skip
    with openai.OpenAI(base_url=f"{scripted.address}/v1", api_key="none") as client:
        answer = client.responses.create(input="What is 2 + 3?", **asked)
        text, call = answer.output
        assert (text.type, answer.output_text) == ("message", "Two sums.")
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("add", CALLS[0])
        with client.responses.stream(input="What is 2 + 3?", **asked) as stream:
            done = [event for event in stream if event.type == "response.function_call_arguments.done"]
            final = stream.get_final_response()
        assert [json.loads(event.arguments) for event in done] == CALLS[:1]
        assert [item.type for item in final.output] == ["message", "function_call"]
        history: list[Any] = [{"role": "user", "content": "What is 2 + 3?"}]
        history += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in answer.output]
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": "5"})
        assert client.responses.create(input=history, **asked).status == "completed"


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": [ADD], "tool_choice": "none"}])
def test_without_tools_nothing_is_looked_for(scripted: RunningServer, fields: dict[str, Any]) -> None:
    (choice,) = scripted.post(CHAT, {"messages": ASKED, **NO_THINKING, **fields}).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", SAID)


def test_a_strict_tool_is_noticed_as_not_enforced(scripted: RunningServer) -> None:
    strict = {"type": "function", "function": {**ADD["function"], "strict": True}}
    found = scripted.post(CHAT, {"messages": ASKED, "tools": [strict]}).json()
    assert "tool-not-strict" in [notice["code"] for notice in found["notices"]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "x": 1}}]}, "tools[0].function.x"),
        ({"tools": [ADD] * 200}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [ADD], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [tool("f", {"type": "array"})], "tool_choice": "required"}, "tools"),
        ({"tools": [tool("f", {"properties": {"a": {"$ref": "https://x"}}})], "tool_choice": "required"}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_tools_and_formats_that_are_invalid(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    refused = client.post(CHAT, json={"messages": ASKED, **fields})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_without_parallel_calls_the_first_ends_the_answer(scripted: RunningServer) -> None:
    asked = {"messages": ASKED, "tools": [ADD], "parallel_tool_calls": False, **NO_THINKING}
    (choice,) = scripted.post(CHAT, asked).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Two sums.")
    assert [json.loads(call["function"]["arguments"]) for call in choice["message"]["tool_calls"]] == CALLS[:1]


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "take"}}])
def test_a_call_that_is_required_comes_with_arguments_by_its_schema(
    client: httpx.Client, choice: Any, thinking: bool
) -> None:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")
    asked = {
        "messages": ASKED, "tools": [TAKE, TAKE if choice == "required" else ADD], "tool_choice": choice,
        "parallel_tool_calls": False, "temperature": 0, "max_tokens": 200, "thinking_budget": 5 * thinking,
    }  # fmt: skip
    (answer,) = (told := client.post(CHAT, json=asked).raise_for_status().json())["choices"]
    assert (answer["finish_reason"], answer["message"]["content"]) == ("tool_calls", None)
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["name"] == "take"
    assert json.loads(call["function"]["arguments"])["fruit"] in {"apple", "pear"}
    assert "tool-not-strict" not in [notice["code"] for notice in told.get("notices", ())]
    function = asked["tools"][0]["function"]
    of_responses = {
        "input": "x", "tools": [{"type": "function", **function}], "parallel_tool_calls": False, "temperature": 0,
        "tool_choice": choice if choice == "required" else {"type": "function", "name": "take"},
        "max_output_tokens": 200, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    found = client.post("/v1/responses", json=of_responses).raise_for_status().json()
    assert (found["tool_choice"], found["parallel_tool_calls"]) == (of_responses["tool_choice"], False)
    assert [(item["type"], item["name"]) for item in found["output"]] == [("function_call", "take")]


def test_tokens_of_the_thinking_are_counted(client: httpx.Client) -> None:
    asked = {"messages": ASKED, "temperature": 0, "max_tokens": 60}
    for fields, most in (({"thinking_budget": 5}, 60), (NO_THINKING, 0)):
        answer = client.post(CHAT, json=asked | fields).raise_for_status().json()
        counted = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert bool(counted) == bool(most)
        assert counted <= min(most, answer["usage"]["completion_tokens"])


def test_formats_are_refused_where_nothing_holds_an_answer_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_fields, "find_spec", lambda _name: None)
    with pytest.raises(ApiError, match="has no llguidance") as refused:
        format_fields.response_format_settings({"type": "json_object"})
    assert (refused.value.status, refused.value.param) == (400, "response_format")
    offering = ToolsFields.model_validate({"tools": [ADD], "tool_choice": "required"})
    with pytest.raises(ApiError, match="has no llguidance") as refused:
        offering.calling  # noqa: B018
    assert (refused.value.status, refused.value.param) == (400, "tool_choice")
    assert format_fields.response_format_settings({"type": "text"}) == {}
    assert ToolsFields.model_validate({"tools": [ADD]}).calling["tool_choice"] == "auto"


@pytest.mark.parametrize("tool", [{"type": "object", "a": [[[[[[{}]]]]]]}, {"x": "y" * 10_000}])
def test_large_descriptions_are_taken_or_refused(client: httpx.Client, tool: dict[str, Any]) -> None:
    described = {"type": "function", "function": {"name": "f", "parameters": tool}}
    assert client.post(CHAT, json={"messages": ASKED, "tools": [described], "max_tokens": 1}).status_code in {200, 400}


def test_an_answer_has_the_format_asked_for(client: httpx.Client) -> None:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 23]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    asked = {"messages": ASKED, "temperature": 0, "max_tokens": 60, **NO_THINKING}
    described = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = client.post(CHAT, json={**asked, "response_format": described}).raise_for_status().json()
    assert json.loads(answer["choices"][0]["message"]["content"])["n"] in {1, 23}
    for hostile in ({"type": "object", "$ref": "https://example.org/x"}, {"enum": ["x" * 1000] * 70_000}):
        named = {"name": "x", "schema": hostile}
        refused = client.post(CHAT, json={**asked, "response_format": {"type": "json_schema", "json_schema": named}})
        assert refused.status_code in {400, 413}
        if refused.status_code == 400:
            assert refused.json()["error"]["param"] == "response_format"
