"""How a server starts, who may use it, and which models it holds: bad inputs 16, 39, 43 and 44."""

from __future__ import annotations

import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from q3edge.artifact import Manifest
from q3edge.errors import InputError, UsageError
from q3edge.server import guard
from q3edge.server.options import ServerOptions, is_loopback, named, read_keys
from tests.helpers.server import RunningServer, running_server, serve_command

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
KEY = "0123456789abcdef-secret"
WITH_KEY = {"authorization": f"Bearer {KEY}"}
SHORT = {"prompt": "The capital of Japan is", "max_tokens": 3, "temperature": 0}
HELLO = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
LOOPING = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def two(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Server of two models, of which one at a time has room, with a key and little patience."""
    folder = tmp_path_factory.mktemp("two")
    looping = shutil.copytree(artifact, folder / "looping")
    (looping / "chat_template.jinja").write_text(LOOPING)
    (folder / "keys").write_text(f"# a comment\n{KEY}-other\n\n{KEY}\n")
    size = sum(record.size for record in Manifest.load(artifact).files.values())
    first = (
        "from q3edge.server import limits\nlimits.SEND_SECONDS, limits.IDLE_SECONDS, limits.READ_SECONDS = 0.3, 1, 0.5"
    )
    options = ("--memory-limit", f"{int(size * 1.5)}B", "--api-key-file", str(folder / "keys"), "--threads", "1")
    names = ("--name", "demo", "--name", "looping", "--allow-origin", "https://ui.example")
    with running_server(artifact, looping, *options, *names, first=first) as server:
        yield server


@pytest.fixture(scope="module")
def trusted(two: RunningServer) -> Iterator[httpx.Client]:
    with two.client(headers=WITH_KEY) as client:
        yield client


def failed(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a server that does not start."""
    result = subprocess.run(serve_command(*arguments), capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == ""
    return result.returncode, result.stderr


def send_without_end(connection: socket.socket, data: bytes) -> None:
    """Send the same again and again, a little slowly."""
    while True:
        connection.sendall(data)
        time.sleep(0.01)


def test_44_other_machines_need_a_key(artifact: Path) -> None:
    code, error = failed(artifact, "--host", "0.0.0.0")
    assert code == 2
    assert error.startswith("q3edge: host = 0.0.0.0: other machines can reach the server there; give a file with a key")
    assert error.count("\n") == 1
    for host in ("0.0.0.0", "192.168.1.4", "::", "example.org", ""):
        with pytest.raises(UsageError, match="give a file with a key"):
            ServerOptions({"m": artifact}, host)
        assert ServerOptions({"m": artifact}, host, keys=(KEY,)).host == host
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))


def test_a_port_in_use_is_said_in_one_line(artifact: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = failed(artifact, "--port", str(port))
    assert (code, error) == (4, f"q3edge: port {port} of 127.0.0.1 is in use by another program; give another --port\n")


def test_what_is_no_model_is_said_in_one_line(artifact: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(artifact, tmp_path / "broken")
    data = (broken / "onnx" / "model.onnx_data").read_bytes()
    (broken / "onnx" / "model.onnx_data").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    code, error = failed(broken)
    assert code == 3
    assert "sha256 differs" in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("q3edge: ")


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# mine\n\n {KEY} \n{KEY}2\r\n")
    assert read_keys(file) == (KEY, f"{KEY}2")
    for text, problem in (
        ("", "at least one"),
        ("short", "fewer than 16"),
        (f"{KEY} x", "a space"),
        ("ä" * 20, "ASCII"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=problem) as refused:
            read_keys(file)
        assert text not in str(refused.value) or not text
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path)


def test_models_are_named_by_their_folders_or_as_asked() -> None:
    one, other = Path("/a/int4"), Path("/b/int4")
    assert named((one,), ()) == {"int4": one}
    assert named((one, other), ("x", "y")) == {"x": one, "y": other}
    with pytest.raises(UsageError, match="two models are named 'int4'"):
        named((one, other), ())
    with pytest.raises(UsageError, match="2 folders and 1 names"):
        named((one, other), ("x",))


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, f"Basic {KEY}", "Bearer \xff\xfe"],
)
def test_43_every_path_but_health_and_the_page_needs_the_key(two: RunningServer, authorization: str | None) -> None:
    headers = {} if authorization is None else {b"authorization": authorization.encode("latin-1")}
    with two.client() as client:
        for method, path in (
            ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/nothing"), ("GET", "/page/"), ("GET", "/page/models"),
            ("POST", CHAT), ("PUT", "/v1/models"),
        ):  # fmt: skip
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/health", headers=headers).json() == {"status": "ready"}
        assert client.get("/", headers=headers).status_code == 200


def test_43_any_of_the_keys_will_do_and_none_is_logged(two: RunningServer) -> None:
    wrong = f"{KEY}-wrong"
    with two.client() as client:
        for given in (f"Bearer {KEY}", f"bearer {KEY}-other"):
            client.get("/v1/models", headers={"authorization": given}).raise_for_status()
        client.get(f"/v1/models?key={wrong}", headers={"authorization": f"Bearer {wrong}"})
    assert two.requests(status=401)
    assert "secret" not in "".join(two.lines)


def test_43_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, artifact: Path) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare(given: Any, key: Any) -> bool:
        compared.append((given, key))
        return bool(given == key)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    service: Any = type("Service", (), {"options": ServerOptions({"m": artifact}, keys=("a" * 16, "b" * 16))})()
    guarded: Any = guard.Guard(lambda *_: None, service, frozenset(), frozenset())  # type: ignore[arg-type]
    guarded._check_key(httpx.Headers({"authorization": f"Bearer {'a' * 16}"}))
    assert compared == [(b"a" * 16, b"a" * 16), (b"a" * 16, b"b" * 16)]


def test_a_page_that_was_allowed_may_use_it(two: RunningServer) -> None:
    origin = {"origin": "https://ui.example"}
    with two.client() as client:
        asked = client.options(CHAT, headers=origin | {"access-control-request-method": "POST"})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin["origin"])
        told = client.get("/v1/models", headers=WITH_KEY | origin)
        assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, origin["origin"])
        assert "access-control-allow-credentials" not in told.headers
        other = client.get("/v1/models", headers=WITH_KEY | {"origin": "https://evil.example"})
        assert other.status_code == 403


@pytest.mark.parametrize(
    "data",
    [
        b"", b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /h",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\nauthorization: Bearer "
        + KEY.encode() + b'\r\n\r\n{"prompt',
    ],
)  # fmt: skip
def test_39_slow_senders_are_hung_up_on(two: RunningServer, data: bytes) -> None:
    address = urlsplit(two.address)
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
    if data.startswith(b"POST"):
        assert found.startswith(b"HTTP/1.1 408 ")
    else:
        assert found.count(b"HTTP/1.1 200") == data.count(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "more"),
    [
        (b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n", b" "),
        (b"", b"GET /page/style.css HTTP/1.1\r\nhost: localhost\r\n\r\n" * 200),
    ],
    ids=["a body behind its refusal, byte by byte", "requests, and reads no answer"],
)
def test_39_who_sends_without_an_end_is_hung_up_on(two: RunningServer, request_: bytes, more: bytes) -> None:
    address = urlsplit(two.address)
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        connection.sendall(request_)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            send_without_end(connection, more)


def test_a_log_that_cannot_be_written_changes_no_answer(artifact: Path) -> None:
    with running_server(artifact, first="import sys\nsys.stderr = open('/dev/full', 'w')") as server:
        for _ in range(2):
            assert server.post(PLAIN, SHORT).status_code == 200
        server.end()


def test_16_a_template_that_does_not_end_is_killed_and_stalls_nobody(two: RunningServer, trusted: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        looping = pool.submit(trusted.post, CHAT, json=HELLO | {"model": "looping"})
        answered = 0
        while not looping.done():
            answered += trusted.post(PLAIN, json=SHORT | {"model": "looping"}).raise_for_status().status_code == 200
        refused = looping.result()
    assert answered > 0
    assert refused.status_code == 400
    told = refused.json()["error"]["message"]
    assert told == "chat_template.jinja: the chat template took more than 2 s; it is broken or malicious"


def test_models_are_opened_when_asked_for_and_the_idle_leave(two: RunningServer, trusted: httpx.Client) -> None:
    def open_models() -> list[str]:
        return [each["id"] for each in trusted.get("/v1/models").json()["data"] if each["loaded"]]

    for name in ("demo", "looping", "demo", None):
        fields = SHORT if name is None else SHORT | {"model": name}
        answer = trusted.post(PLAIN, json=fields).raise_for_status().json()
        assert answer["model"] == (name or "demo")
        assert open_models() == [name or "demo"]
    with trusted.stream(
        "POST", PLAIN, json=SHORT | {"max_tokens": 900, "ignore_eos": True, "stream": True}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        refused = trusted.post(PLAIN, json=SHORT | {"model": "looping"})
        assert refused.status_code in {200, 503}  # 200: the answer was done before
        if refused.status_code == 503:
            assert refused.json()["error"]["code"] == "model_busy"
            assert open_models() == ["demo"]


ENDLESS_PREPARATION = """
import time
from q3edge.runtime.text.chat_encoding import ChatEncoder
ChatEncoder.encode = lambda self, *args, **named: print("preparing", flush=True) or time.sleep(600)
"""


ENDLESS_LOADING = """
import time
from q3edge.runtime.model import Model
Model.open = classmethod(lambda *args, **named: print("loading", flush=True) or time.sleep(600))
"""


def test_a_model_that_is_being_opened_does_not_keep_the_server_from_ending(artifact: Path) -> None:
    command = serve_command(artifact, first=ENDLESS_LOADING)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "loading\n"
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_request_that_is_being_prepared_does_not_keep_the_server_from_ending(artifact: Path) -> None:
    with running_server(artifact, "--threads", "1", first=ENDLESS_PREPARATION) as server, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(server.post, CHAT, HELLO)
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "preparing\n"
        assert server.end() == 0
        with pytest.raises(httpx.HTTPError):
            asking.result().raise_for_status()
