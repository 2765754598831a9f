"""The image and the unit of docs/serving.md: what they copy exists, and what they run is a command of ours."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from configparser import ConfigParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from threading import enumerate as enumerate_threads

import pytest
from starlette.testclient import TestClient

from q3edge.cli.main import cli
from q3edge.errors import InputError
from q3edge.server.app import hosted_app
from q3edge.server.options import ServerOptions

ROOT = Path(__file__).resolve().parents[3]
IMAGE, UNIT = ROOT / "examples" / "Dockerfile", ROOT / "examples" / "q3edge.service"


def check_command(words: Sequence[str]) -> None:
    """Parse a command line as the command would."""
    program, verb, *arguments = words
    assert Path(program).name == "q3edge"
    cli.commands[verb].make_context(verb, list(arguments))


def test_the_image_copies_what_exists_and_runs_a_command() -> None:
    lines = [line for line in IMAGE.read_text().splitlines() if line and not line.startswith("#")]
    words = [line.partition(" ") for line in lines]
    assert [word for word, _, _ in words] == sorted(
        (word for word, _, _ in words),
        key=["FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"].index,
    )
    for word, _, rest in words:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    (run,) = (rest for word, _, rest in words if word == "RUN")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\[(\S+)\]'", run)) <= set(extras)
    check_command(json.loads(words[-1][2]))


@pytest.mark.parametrize(
    ("status", "body", "well"), [(200, "ready", True), (503, "full", True), (503, "failed", False), (None, "", False)]
)
def test_the_image_is_unwell_where_the_model_has_failed_or_nobody_answers(
    status: int | None, body: str, well: bool
) -> None:
    program, option, script = json.loads(re.findall(r"^HEALTHCHECK .* CMD (.*)$", IMAGE.read_text(), re.MULTILINE)[0])
    assert (program, option) == ("python", "-c")

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/health"
            self.send_response(status or 500)
            self.end_headers()
            self.wfile.write(json.dumps({"status": body}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        script = script.replace("8000", str(server.server_port))
        if status is None:
            server.server_close()
        else:
            Thread(target=server.handle_request).start()
        done = subprocess.run([sys.executable, option, script], capture_output=True, check=False)
    assert (done.returncode == 0) is well


def test_hadolint_takes_the_image() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    result = subprocess.run([program, str(IMAGE)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_another_server_opens_the_model_with_the_application_and_closes_it(artifact: Path) -> None:
    app = hosted_app(ServerOptions({"demo": artifact}, threads=1))
    question = {"messages": [{"role": "user", "content": "What is 3 + 4?"}], "temperature": 0, "thinking_budget": 0}
    with TestClient(app, "http://localhost") as client:
        assert client.get("/health").json() == {"status": "ready"}
        answer = client.post("/v1/chat/completions", json=question).json()
        assert answer["choices"][0]["message"]["content"] == "7"
        assert client.get("/v1/models/demo").json()["loaded"] is True
    assert not [thread for thread in enumerate_threads() if thread.name == "passes of demo"]


def test_another_server_does_not_start_with_a_model_that_cannot_be_opened(artifact: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(artifact, tmp_path / "broken"))
    next(broken.rglob("*.onnx")).write_bytes(b"no graph")
    with (
        pytest.raises(InputError, match=r"\.onnx"),
        TestClient(hosted_app(ServerOptions({"demo": broken}, threads=1)), "http://localhost"),
    ):
        pass


def test_the_unit_runs_a_command() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    assert unit.sections() == ["Unit", "Service", "Install"]
    check_command(shlex.split(unit["Service"]["ExecStart"]))
    assert int(unit["Service"]["TimeoutStopSec"]) >= 10  # answers have time to end


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "q3edge.service"
    copy.write_text(UNIT.read_text().replace("/opt/q3edge/bin/q3edge", "/bin/true"))
    result = subprocess.run([program, "verify", str(copy)], capture_output=True, text=True, check=False)
    assert "q3edge.service" not in result.stderr, result.stderr
