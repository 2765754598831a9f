"""Damaged requests to a real server: each is answered or refused, and leaves the server as it was."""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import h11
import psutil  # type: ignore[import-untyped]

import q3edge
from q3edge.server.limits import MAX_HEADER
from tests.fuzz.cases import HANG_SECONDS, check_refusals, counts, damaged_bytes, damaged_json, json_bytes
from tests.helpers.embedding import write_embedding_checkpoint
from tests.helpers.server import RunningServer, running_server

CHAT, PLAIN, TURN = "/v1/chat/completions", "/v1/completions", "/v1/responses"
USER = {"role": "user", "content": "Why is the sky blue?"}
FUNCTION = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
USUAL = {"prompt": "The capital of Japan is", "max_tokens": 8, "temperature": 0}
SAMPLING: dict[str, Any] = {
    "model": "demo", "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1,
    "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 5, "n": 2, "stop": ["\n", "x"], "stop_token_ids": [7],
    "min_tokens": 1, "logit_bias": {"5": 1.5}, "stream_options": {"include_usage": True}, "ignore_eos": False,
}  # fmt: skip
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"messages": [USER], "max_tokens": 4}),
    (CHAT, {"messages": [USER], "max_completion_tokens": 4, "stream": True, **SAMPLING}),
    (CHAT, {"messages": [USER], "max_tokens": 3, "logprobs": True, "top_logprobs": 3, "reasoning_effort": "low"}),
    (CHAT, {"messages": [USER], "max_tokens": 3, "tools": [{"type": "function", "function": FUNCTION}]}),
    (CHAT, {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, USER,
            {"role": "assistant", "content": "", "reasoning_content": "So.", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "2"},
        ], "max_tokens": 2, "chat_template_kwargs": {"enable_thinking": False}, "thinking_budget": 3,
    }),
    (CHAT, {
        "messages": [USER], "max_tokens": 5, "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
    }),
    (PLAIN, {"prompt": "x", "max_tokens": 3, "logprobs": 2, "echo": True}),
    (PLAIN, {"prompt": ["x", "y"], "max_tokens": 3, "stream": True, **SAMPLING}),
    (PLAIN, {"prompt": [[5, 6], [7]], "max_tokens": 3}),
    (TURN, {"input": "x", "instructions": "Be brief.", "max_output_tokens": 3, "reasoning": {"effort": "low"}}),
    (TURN, {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "2"},
        ], "max_output_tokens": 3, "stream": True, "tools": [{"type": "function", **FUNCTION}],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, "metadata": {"a": "b"},
    }),
    ("/v1/embeddings", {"model": "embedder", "input": ["the cat", "dog"], "dimensions": 8, "input_type": "query"}),
    ("/v1/embeddings", {"model": "embedder", "input": [[5, 6], [7]]}),
    ("/v1/rerank", {"query": "cat", "documents": ["x", {"text": "y"}], "top_n": 1, "return_documents": True}),
    ("/tokenize", {"messages": [USER], "return_token_strs": True, "add_generation_prompt": False}),
    ("/tokenize", {"prompt": "x <|im_end|>"}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
)  # fmt: skip
OTHER_PATHS = (
    "/", "/health", "/metrics", "/v1/models", "/v1/models/demo", "/v1/models/%ff%00", "//v1/models", "/v1/../health",
    "/page/../../../etc/passwd", "/page/%2e%2e/x", "/v1/prefixes", "http://evil.example/health", "*", "/%", "/a?b#c",
    "/v1/models/..%2f..%2fetc", "/v1/chat/completions/", "/" + "a" * 5000,
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "get", "OPTIONS", "X" * 99)
FIELDS = (
    b"content-encoding: gzip", b"transfer-encoding: chunked", b"transfer-encoding: gzip", b"content-length: 5",
    b"content-length: 99999999999999999999999", b"content-length: -1", b"content-length: 1, 1", b"content-length: x",
    b"content-type: text/plain", b"content-type: application/json; charset=\xff", b"content-type: ", b"host: evil",
    b"host: ", b"origin: http://evil.example", b"origin: null", b"expect: 100-continue", b"expect: 1",
    b"upgrade: websocket", b"upgrade: h2c", b"connection: upgrade", b"connection: close, keep-alive",
    b"authorization: Bearer \xff", b"x: " + b"y" * 40000, b"range: bytes=0-5", b": x", b"a b: c", b" folded: x",
    b"x\0: y", b"x: y\0", b"x: \r y", b"accept: \xff\xfe", b"te: trailers", b"sec-websocket-key: x",
    b"accept-encoding: gzip", b"x-forwarded-for: 1", b"traceparent: \x01",
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    place = tmp_path_factory.mktemp("served")
    demo = str(files("q3edge.data") / "demo_model")
    q3edge.export(demo, place / "demo", as_float=True)
    q3edge.export(write_embedding_checkpoint(place / "checkpoint"), place / "embedder", as_float=True)
    options = ("--threads", "1", "--max-new-tokens", "8", "--max-queue", "1000")
    with running_server(place / "demo", place / "embedder", *options) as running:
        yield running


def request(source: random.Random) -> bytes:
    """One damaged request."""
    path, fields = source.choice(BODIES)
    value = damaged_json(fields, source) if source.random() < 0.9 else source.choice(BODIES)[1]
    body = json_bytes(value, source)
    method = "POST"
    if source.random() < 0.1:
        path, method = (
            source.choice(OTHER_PATHS),
            source.choice(METHODS),
        )
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: localhost", b"content-type: application/json"]
    chance = source.random()
    if chance < 0.1:
        half = len(body) // 2
        parts = (body[:half], body[half:], b"")
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part or part is parts[-1])
        lines.append(b"transfer-encoding: chunked")
    else:
        off = source.choice((-1, 1, 1000)) if chance < 0.15 else 0
        lines.append(b"content-length: %d" % max(len(body) + off, 0))
    if source.random() < 0.2:
        lines.insert(source.randrange(1, len(lines) + 1), source.choice(FIELDS))
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if source.random() < 0.05:
        head = damaged_bytes(head, source)
    return head + body


def complete(data: bytes) -> bool:
    """Whether a server has to answer: the request is whole, or no HTTP; by h11, the library that the server uses."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
    reader.receive_data(data)
    try:
        while (event := reader.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.EndOfMessage):
                return True
    except h11.RemoteProtocolError:
        return True
    return False


def answer(served: RunningServer, data: bytes) -> tuple[int, bytes, str] | None:
    """Status, body and type of what the server answers; None: there is a part missing, and it waits for that."""
    address = urlsplit(served.address)
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        with suppress(OSError):  # refused before all is read
            connection.sendall(data)
        if not complete(data):
            return None
        response = http.client.HTTPResponse(connection, method="HEAD" if data.startswith(b"HEAD ") else "POST")
        response.begin()
        return response.status, response.read(), response.headers.get_content_type()


def check_answer(status: int, body: bytes, kind: str) -> None:
    """Check that a status is one of those that a client's request can have, and the form of a refusal."""
    assert 200 <= status < 500 or status == 503, (status, body[:500])
    if status >= 400 and body:
        assert kind == "application/json", (status, body[:500])
        assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
        assert json.loads(body)["error"]["message"].isprintable()
    for line in body.splitlines() if kind == "text/event-stream" else ():
        if line.startswith(b"data: {"):
            assert json.loads(line[6:]).get("error") is None, line


@pytest.mark.slow
def test_bodies(served: RunningServer) -> None:
    """No answer tells of a failure, none takes 5 s of the server's CPU time, and it goes on as before, slots empty."""
    before = served.post(PLAIN, USUAL).raise_for_status().json()["choices"]
    process, refused = psutil.Process(served.process.pid), 0
    for index, source in counts("http", 300, 10_000):
        began = sum(process.cpu_times()[:2])
        try:
            found = answer(served, request(source))
            if found is not None:
                check_answer(*found)
                refused += found[0] >= 400
            assert sum(process.cpu_times()[:2]) - began < HANG_SECONDS
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            raise AssertionError(f"http:{index}: {type(error).__name__}: {error}") from error
    check_refusals(refused)
    for name in ("running", "waiting"):
        served.wait_for(f"q3edge_answers_{name}", 0)
    assert served.post(PLAIN, USUAL).raise_for_status().json()["choices"] == before
    assert served.end() == 0
    assert {line["event"] for line in map(json.loads, served.lines)} <= {
        "request",
        "model opened",
        "model closed",
        "ending",
        "ended",
    }
