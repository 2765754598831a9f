"""`RunningServer`: `q3edge serve` in a process of its own, and its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

READY = "ready: "


@dataclass(slots=True)
class RunningServer:
    """A server's process, its address (`http://127.0.0.1:PORT`), and the lines of its log so far."""

    process: subprocess.Popen[str]
    address: str
    lines: list[str]
    reader: Thread

    def client(self, **options: Any) -> httpx.Client:
        """A client of its own connections."""
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)

    def post(self, path: str, fields: object) -> httpx.Response:
        """Answer to one request, on a connection of its own."""
        with self.client() as client:
            return client.post(path, json=fields)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log about one kind of event."""
        return [line for line in map(json.loads, list(self.lines)) if line["event"] == name]

    def requests(self, count: int = 1, **wanted: object) -> list[dict[str, Any]]:
        """Lines of the log about requests with these fields, once there are `count`: answers come before them."""
        while len(found := [line for line in self.events("request") if wanted.items() <= line.items()]) < count:
            time.sleep(0.01)
        return found

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has a value."""
        while self.metric(name) != value:
            time.sleep(0.01)

    def metric(self, name: str, headers: dict[str, str] | None = None) -> float:
        """Sum of a metric's values."""
        with self.client() as client:
            text = client.get("/metrics", headers=headers).raise_for_status().text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.reader.join(30)
        return code


SLOW_PASSES = """
import time
from q3edge.runtime.engine.engine import Engine
made = Engine._pass
Engine._pass = lambda self: (time.sleep(0.02), made(self))[1]
"""
_ENTRY = "from q3edge.cli.start import entry_point\nentry_point()"


def serve_command(*arguments: str | Path, first: str = "") -> list[str]:
    """Command line of a server on a free port. `first`: Python that runs before it."""
    return [sys.executable, "-c", f"{first}\n{_ENTRY}", "serve", "--port", "0", *map(str, arguments)]


@contextmanager
def running_server(*arguments: str | Path, first: str = "") -> Iterator[RunningServer]:
    """Start a server and wait until it is ready; it is killed at the end, if it has not ended."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = serve_command(*arguments, first=first)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        reader = Thread(target=lines.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            first = process.stdout.readline()
            assert first.startswith(READY), [first, *lines]
            yield RunningServer(process, first.removeprefix(READY).strip().removesuffix("/v1"), lines, reader)
        finally:
            process.kill()
            process.wait(30)
            reader.join(30)


def scripted_model(said: str) -> str:
    """Program that has every answer of a server say this text, whatever the model thinks."""
    return f"""
from q3edge.runtime.generation.request import Request
from q3edge.runtime.model import Model
opened = Model.open.__func__
def open_scripted(cls, *args, **named):
    model = opened(cls, *args, **named)
    ids = [*model.tokenizer.encode_text({said!r}), min(model.defaults.stop_token_ids)]
    Request._choose = lambda self, logits: [ids[self.statistics.new_tokens]]
    return model
Model.open = classmethod(open_scripted)
"""
