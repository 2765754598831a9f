"""What a client may not send: bad inputs 36 to 40, and incidents of other servers; refused in OpenAI's shape."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from q3edge.server.body import Body
from q3edge.server.endpoints.chat_completions import ChatFields
from q3edge.server.endpoints.completions import CompletionFields
from q3edge.server.endpoints.embeddings import EmbeddingFields
from q3edge.server.endpoints.rerank import RerankFields
from q3edge.server.endpoints.tokenize import DetokenizeFields
from q3edge.server.errors import ApiError
from q3edge.server.limits import MAX_BODY, MAX_HEADER, MAX_MEMBERS, MAX_MESSAGES, MAX_NESTED, MAX_VALUES
from q3edge.server.text_lengths import check_length
from tests.helpers.server import RunningServer

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "x"}
JSON = {"content-type": "application/json"}


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a refusal, whose shape is checked."""
    assert response.status_code == status, response.text
    (name, error), *others = response.json().items()
    assert (name, others) == ("error", [])
    assert error.keys() == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return dict(error)


def exchange(server: RunningServer, data: bytes) -> bytes:
    """Send bytes as they are, and read until the server closes the connection."""
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b'{"messages": [', b"\xff\xfe", b'{"messages": NaN}', b'{"temperature": Infinity}',
        b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000, b"[]", b"1", b"null",
        b'"text"',
    ],
)  # fmt: skip
def test_37_what_is_no_json_object(client: httpx.Client, body: bytes) -> None:
    assert refusal(client.post(CHAT, content=body, headers=JSON))["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [USER, {}]}, "messages[1].role"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "x", "file": "/etc/passwd"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}]}, "messages[0]"),
        ({"messages": [USER] * (MAX_MESSAGES + 1)}, "messages"),
        ({"n": 10**9}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"min_tokens": 10**9}, "min_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"presence_penalty": 1e9}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": ["x", 1]}, "stop[1]"),
        ({"stop": "x" * 2000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop_token_ids": [10**9]}, "stop_token_ids"),
        ({"stop_token_ids": list(range(1000))}, "stop_token_ids"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort"),
        ({"reasoning_effort": "low", "thinking_budget": 5}, "thinking_budget"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"model": 5}, "model"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 10**9}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1000000": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 1e9}}, "logit_bias"),
        ({"logit_bias": {"5": None}}, "logit_bias.5"),
        ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
    ],
)
def test_37_40_fields_of_the_wrong_kind_or_size_are_named(
    client: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    body = fields if not fields or "messages" in fields else {"messages": [USER], **fields}
    error = refusal(client.post(CHAT, content=json.dumps(body), headers=JSON))
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "name", "text"),
    [
        (CHAT, "messages", f'[{{"role": "user", "content": [{"{}," * MAX_NESTED}{{}}]}}]'),
        (PLAIN, "prompt", f"[{'1,' * MAX_VALUES}1]"),
        ("/detokenize", "tokens", f"[{'1,' * MAX_VALUES}1]"),
        (CHAT, "tools", json.dumps([{"type": "function", "function": {str(i): 1 for i in range(MAX_MEMBERS + 1)}}])),
        (CHAT, "chat_template_kwargs", json.dumps({str(i): 1 for i in range(MAX_MEMBERS + 1)})),
    ],
)
def test_37_a_field_whose_check_would_take_long_is_refused(
    client: httpx.Client, path: str, name: str, text: str
) -> None:
    error = refusal(client.post(path, content=f'{{"{name}": {text}}}', headers=JSON))
    assert (error["param"], "too much to check" in error["message"]) == (name, True)


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (CompletionFields, {"prompt": [1, "", ""]}),
        (CompletionFields, {"prompt": [[1], [""], [""]]}),
        (CompletionFields, {"prompt": ["x", 1, 1]}),
        (DetokenizeFields, {"tokens": ["", ""]}),
        (EmbeddingFields, {"input": ["x", 1, 1]}),
        (RerankFields, {"query": "x", "documents": [1, 1]}),
        (ChatFields, {"messages": [USER], "tools": [{"x": 1}, {"x": 1}]}),
    ],
)
def test_37_the_first_bad_value_of_a_list_ends_its_check(schema: type[Body], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as found:
        schema.model_validate(fields)
    assert len({error["loc"][:3] for error in found.value.errors() if 1 in error["loc"]}) <= 1
    assert all(2 not in error["loc"] for error in found.value.errors())


def test_34_a_text_that_no_context_holds_is_not_encoded_as_a_whole() -> None:
    encoded = 0

    def encode(text: str) -> list[int]:
        nonlocal encoded
        encoded += len(text)
        return [0] * (len(text) // 8)

    check_length(["x" * 50_000], encode, 10_000, "prompt")
    check_length(["x" * 80_000] * 2, encode, 10_000, "prompt")
    assert encoded == 160_000
    with pytest.raises(ApiError, match="far more than the 10000 tokens"):
        check_length(["x" * 5_000_000], encode, 10_000, "prompt")
    assert encoded < 400_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", "{{ x }}"), ("template", "x"), ("functions", [{"name": "f"}]), ("prompt", "x"),
        ("best_of", 3), ("use_beam_search", True), ("guided_regex", "(a+)+b"), ("web_search_options", {}),
        ("audio", {"voice": "x"}), ("modalities", ["audio"]), ("continue_final_message", True), ("lora", "/etc/passwd"),
        ("add_generation_prompt", False), ("documents", ["x"]), ("x" * 5000, 1), ("enable_thinking", True),
    ],
)  # fmt: skip
def test_fields_that_are_not_followed_are_refused_by_name(client: httpx.Client, name: str, value: object) -> None:
    error = refusal(client.post(CHAT, json={"messages": [USER], name: value}))
    assert (error["param"], error["code"]) == (name[:100], "unsupported")


@pytest.mark.parametrize("name", ["chat_template", "messages", "tools", "bos_token", "raise_exception", "__class__"])
def test_no_request_sets_a_variable_of_the_template(client: httpx.Client, name: str) -> None:
    error = refusal(client.post(CHAT, json={"messages": [USER], "chat_template_kwargs": {name: "x"}}))
    assert error["param"] == f"chat_template_kwargs.{name}"


def test_fields_without_effect_are_taken(client: httpx.Client) -> None:
    fields = {
        "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "logprobs": False, "top_k": -1,
        "parallel_tool_calls": True, "modalities": ["text"], "response_format": {"type": "text"}, "tools": None,
        "seed": None, "tool_choice": "none",
    }  # fmt: skip
    client.post(CHAT, json={"messages": [USER], "max_tokens": 1, **fields}).raise_for_status()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, "x"]}, "prompt[1]"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["x"] * 200}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "messages": [USER]}, "messages"),
        ({"prompt": "x", "n": 10**9}, "n"),
        ({"prompt": ["x"] * 100, "n": 16}, "n"),
        ({"prompt": "x", "thinking_budget": 3}, "thinking_budget"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "echo": True, "stream": True}, "echo"),
    ],
)
def test_40_prompts_of_the_wrong_kind_or_size(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    assert refusal(client.post(PLAIN, json=fields))["param"] == param


def test_34_a_prompt_beyond_the_context_has_the_code_that_clients_look_for(client: httpx.Client) -> None:
    for path, body in (
        (CHAT, {"messages": [{"role": "user", "content": "x y " * 2000}]}),
        (PLAIN, {"prompt": [5] * 2000}),
    ):
        error = refusal(client.post(path, json=body))
        assert error["code"] == "context_length_exceeded"
        assert "1024" in error["message"]


def test_unknown_models_and_paths_and_methods(client: httpx.Client) -> None:
    error = refusal(client.post(CHAT, json={"messages": [USER], "model": "../../etc"}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert refusal(client.get("/v1/models/other"), 404)["code"] == "model_not_found"
    refusal(client.get("/v1/nothing"), 404)
    refusal(client.get(CHAT), 405)
    assert client.get(CHAT).headers["allow"] == "POST"
    assert refusal(client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"}), 415)["code"]


def test_38_a_large_body_is_refused_before_it_is_read(server: RunningServer) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    told = exchange(server, f"{head}content-length: {10**12}\r\n\r\n".encode())
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in told
    chunk = b"%x\r\n%s\r\n" % (2**20, b" " * 2**20)
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 8 * MAX_BODY:  # far more than buffers on the way hold
                connection.sendall(chunk)
                sent += 2**20
        except OSError:
            pass
    assert sent < 8 * MAX_BODY


def test_39_a_large_header_is_refused(server: RunningServer) -> None:
    for head in (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ", b"GET /"):
        told = exchange(server, head + b"a" * MAX_HEADER)
        assert told.startswith(b"HTTP/1.1 431 ")
        assert b'"code": "invalid_http"' in told
    assert exchange(server, b"\x16\x03\x01nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "fields",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n\r\n", b"transfer-encoding: gzip\r\n\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", b"host: localhost\r\n\r\n",
    ],
)  # fmt: skip
def test_a_request_whose_end_is_in_doubt_is_refused(server: RunningServer, fields: bytes) -> None:
    told = exchange(server, f"POST {PLAIN} HTTP/1.1\r\nhost: localhost\r\n".encode() + fields)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert told.count(b"HTTP/1.1") == 1


def test_a_body_that_turns_out_to_be_none_is_no_failure(server: RunningServer) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    for kind in ("text/plain", "application/json"):
        told = exchange(server, head.replace("\r\n\r\n", f"\r\ncontent-type: {kind}\r\n\r\nx\r\n").encode())
        assert told.startswith(b"HTTP/1.1 400 ")
    assert server.post(PLAIN, {"prompt": "x", "max_tokens": 1}).status_code == 200
    assert server.events("library") == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403), ({"host": "evil.example:80"}, 403), ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403), ({"host": "localhost"}, 200), ({"host": "LOCALHOST:1"}, 200), ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:80"}, 200), ({"host": "192.168.1.5:8000"}, 200),
        ({"host": "localhost", "origin": "https://evil.example"}, 403), ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost:1", "origin": "http://localhost:1"}, 200),
    ],
)  # fmt: skip
def test_45_names_and_pages_that_are_not_the_servers(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    for path in ("/health", "/v1/models", "/metrics"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status, answer.text
        assert not [name for name in answer.headers if name.startswith("access-control")]
    asking = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert client.options(CHAT, headers=asking).status_code == 403
