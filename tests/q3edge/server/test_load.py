"""Requests that leave, wait, fail or come too many: bad inputs 41, 42, 46 and 47, on a server whose passes are slow."""

from __future__ import annotations

import json
import resource
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from q3edge.server.connection import most_sockets
from tests.helpers.server import SLOW_PASSES, RunningServer, running_server

PLAIN = "/v1/completions"
LONG = {"prompt": "The capital of Japan is", "max_tokens": 900, "ignore_eos": True, "temperature": 0}  # of many seconds
SHORT = LONG | {"max_tokens": 3}


@pytest.fixture(scope="module")
def slow(artifact: Path) -> Iterator[RunningServer]:
    with running_server(artifact, "--max-batch", "2", "--max-queue", "1", "--log-prompts", first=SLOW_PASSES) as server:
        yield server


@contextmanager
def begun(client: httpx.Client, fields: dict[str, Any]) -> Iterator[Iterator[Any]]:
    """Events of a stream behind the first, which has come."""
    with client.stream("POST", PLAIN, json={**fields, "stream": True}) as response:
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
        next(lines)
        yield (line if line == "[DONE]" else json.loads(line) for line in lines)


def test_41_a_client_that_leaves_frees_its_slot_wherever_it_is(slow: RunningServer) -> None:
    with slow.client() as client, slow.client() as second:
        with begun(client, LONG), begun(second, LONG):
            with pytest.raises(httpx.ReadTimeout), slow.client() as queued:  # both places are taken
                queued.post(PLAIN, json=LONG, timeout=httpx.Timeout(60, read=0.3))
            slow.wait_for("q3edge_answers_waiting", 0)
            assert slow.metric("q3edge_answers_running") == 2
        slow.wait_for("q3edge_answers_running", 0)
    with pytest.raises(httpx.ReadTimeout), slow.client() as client:  # in a prefill of many passes, or behind it
        client.post(PLAIN, json=LONG | {"prompt": [5] * 900, "max_tokens": 100}, timeout=httpx.Timeout(60, read=0.3))
    slow.wait_for("q3edge_answers_running", 0)
    with slow.client() as client:
        client.post(PLAIN, json=SHORT).raise_for_status()
    assert [line["outcome"] for line in slow.requests(5, path=PLAIN)] == ["cancelled"] * 4 + ["ok"]
    assert slow.metric("q3edge_generated_tokens_total") == 3


def test_42_a_full_queue_is_told_with_a_time_to_try_again(slow: RunningServer) -> None:
    with slow.client() as client, slow.client() as second, ThreadPoolExecutor(1) as pool:
        with begun(client, LONG), begun(second, LONG):
            waiting = pool.submit(slow.post, PLAIN, SHORT)
            slow.wait_for("q3edge_answers_waiting", 1)
            with slow.client() as third:
                refused = third.post(PLAIN, json=SHORT)
                health = third.get("/health")
                too_many = third.post(PLAIN, json=SHORT | {"n": 4})
        assert waiting.result().status_code == 200
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) > 0
    assert (health.status_code, health.json()) == (503, {"status": "full"})
    assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "n")  # it would never fit


def test_46_bad_requests_beside_good_ones_change_nothing(client: httpx.Client) -> None:
    prompts = ["The capital of Japan is", "1 + 1 =", "The colour of snow is", "A dog is"]
    good = [{"prompt": prompt, "max_tokens": 60, "temperature": 0, "ignore_eos": True} for prompt in prompts]
    bad: list[dict[str, Any]] = [
        {"prompt": [10**6]}, {"prompt": "x", "top_p": -1}, {"prompt": "x", "stop_token_ids": [10**6]}, {"prompt": []},
    ]  # fmt: skip
    alone = [client.post(PLAIN, json=fields).json()["choices"][0]["text"] for fields in good]

    def left(fields: dict[str, Any]) -> None:
        with begun(client, fields | {"max_tokens": 500}):
            pass

    with ThreadPoolExecutor(12) as pool:
        leaving = [pool.submit(left, fields) for fields in good]
        refused = [pool.submit(client.post, PLAIN, json=fields) for fields in bad * 3]
        answered = [pool.submit(client.post, PLAIN, json=fields) for fields in good * 3]
        assert [each.result().json()["choices"][0]["text"] for each in answered] == alone * 3
        assert {each.result().status_code for each in refused} == {400}
        assert [each.result() for each in leaving] == [None] * len(good)


def test_47_a_server_that_is_told_to_end_lets_answers_end(artifact: Path) -> None:
    with running_server(artifact, first=SLOW_PASSES) as server, server.client() as client, server.client() as other:
        with begun(client, LONG | {"max_tokens": 60}) as events:
            server.process.send_signal(signal.SIGTERM)
            while (refused := other.post(PLAIN, json=SHORT)).status_code == 200:
                time.sleep(0.01)
            assert other.get("/health").json() == {"status": "shutting down"}
            rest = list(events)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert rest[-2]["choices"][0]["finish_reason"] == "length"
        assert rest[-1] == "[DONE]"
        assert server.process.wait(30) == 0


def test_47_answers_that_do_not_end_are_ended_with_an_error(artifact: Path) -> None:
    first = f"{SLOW_PASSES}\nfrom q3edge.server import serving\nserving._DRAIN_SECONDS = 0.2"
    with running_server(artifact, first=first) as server, ThreadPoolExecutor(1) as pool, server.client() as client:
        whole = pool.submit(server.post, PLAIN, LONG)
        with begun(client, LONG) as events:
            server.wait_for("q3edge_answers_running", 2)
            server.process.send_signal(signal.SIGINT)
            *_, last, done = events
        assert last["error"]["code"] == whole.result().json()["error"]["code"] == "shutting_down"
        assert whole.result().status_code == 503
        assert done == "[DONE]"
        assert server.process.wait(30) == 0


def test_41_a_client_that_leaves_while_it_sends_is_no_failure(slow: RunningServer) -> None:
    address = urlsplit(slow.address)
    before = len(slow.events("request"))
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        head = f"POST {PLAIN} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"{")
    assert slow.requests(before + 1)[-1]["outcome"] == "cancelled"
    assert slow.events("internal error") == []


FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from q3edge.server import limits
limits.MAX_CONNECTIONS = 8
"""


def connect(server: RunningServer, stack: ExitStack) -> socket.socket:
    address = urlsplit(server.address)
    return stack.enter_context(socket.create_connection((address.hostname, address.port), 60))


def answer_to(connection: socket.socket) -> bytes:
    """Ask for the health on a connection, and read until it is closed; empty: it was hung up on."""
    found = b""
    with suppress(ConnectionError):
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        while part := connection.recv(65536):
            found += part
    return found


def test_connections_above_the_limit_are_refused_in_the_usual_shape(artifact: Path) -> None:
    with running_server(artifact, first=FEW) as server, server.client() as client:
        with ExitStack() as stack:
            before = [connect(server, stack) for _ in range(8)]
            over = [connect(server, stack) for _ in range(8)]
            beyond = connect(server, stack)
            told = answer_to(over[0])
            assert told.startswith(b"HTTP/1.1 503 ")
            assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
            assert b"connection: close" in told
            assert answer_to(beyond) == b""
            before[0].sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert before[0].recv(65536).startswith(b"HTTP/1.1 200 ")
            for _ in range(300):  # more than the process may have files
                connect(server, stack)
        while not answered(client):  # the ends of the others are still to be read
            time.sleep(0.01)
        client.post(PLAIN, json=SHORT).raise_for_status()
        assert server.events("library") == []


def test_half_of_the_files_that_may_be_open_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, most in ((100, 50), (1024, 512), (2**20, 2048), (resource.RLIM_INFINITY, 2048)):
        monkeypatch.setattr(resource, "getrlimit", lambda _kind, allowed=allowed: (allowed, allowed))
        assert most_sockets() == most


def answered(client: httpx.Client) -> bool:
    """Whether the server takes a connection again."""
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_model_that_has_failed_is_told(artifact: Path) -> None:
    broken = "from q3edge.runtime.engine.engine import Engine\nEngine.step = lambda self: 1 / 0"
    with running_server(artifact, first=broken) as server, server.client() as client:
        for _ in range(2):
            refused = server.post(PLAIN, SHORT)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_failed")
        health = client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "failed"})
    assert "ZeroDivisionError" in server.events("engine failed")[0]["error"]


def test_prompts_are_logged_if_that_is_asked_for(slow: RunningServer) -> None:
    before = len(slow.events("request"))
    slow.post(PLAIN, SHORT | {"prompt": "logged"}).raise_for_status()
    assert json.loads(slow.requests(before + 1)[-1]["prompt"]) == SHORT | {"prompt": "logged"}
