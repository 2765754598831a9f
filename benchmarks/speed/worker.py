"""One measured process: a speed worker (peers/speed_contract.py) that is started, asked and closed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST_TOKEN_PROMPT = 32  # tokens
TINY_PROMPT = 8  # what "depth 0" decodes behind
_LIMIT = 1200  # seconds that one answer may take
# As a user's shell has it: what a thread does while it waits is the tool's business, and bytecode is kept.
_UNSET = ("OMP_WAIT_POLICY", "PYTHONDONTWRITEBYTECODE")


class WorkerFailedError(Exception):
    """The process ended or took too long; its log may say why."""


@dataclass(frozen=True)
class Work:
    """What every tool does in a round."""

    prompt: int
    new: int
    depths: tuple[int, ...]
    threads: int


class Worker:
    """A process that answers requests; what it prints beside them goes to `log`."""

    def __init__(self, command: Sequence[str], log: Path, threads: int) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _UNSET}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._log = log.open("ab")
        reader, writer = os.pipe()
        self._replies = os.fdopen(reader, "rb")
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, "--reply", str(writer)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            pass_fds=[writer],
        )
        os.close(writer)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process: gently, unless it still works on an answer that nobody waits for."""
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._replies.close()
        self._log.close()

    def read(self) -> dict[str, Any]:
        """The next answer."""
        if not select.select([self._replies], [], [], _LIMIT)[0]:
            self._process.kill()
            self._log.write(f"\nno answer within {_LIMIT} s\n".encode())
            raise WorkerFailedError
        line = self._replies.readline()
        if not line:
            code = self._process.wait()
            if code < 0:
                self._log.write(f"\nended by signal {-code}\n".encode())
            raise WorkerFailedError
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, request: str) -> dict[str, Any]:
        """The answer to one request."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{request}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailedError from None
        return self.read()


def warm_up(command: Sequence[str], log: Path, threads: int) -> None:
    """A start whose times nobody keeps: the tool's libraries and the model's files are in the page cache after it."""
    with Worker(command, log, threads) as worker:
        worker.read()
        worker.ask(f"{FIRST_TOKEN_PROMPT} 1")


def measure(command: Sequence[str], log: Path, work: Work) -> dict[str, Any]:
    """One round of one tool: seconds by name, decode per depth, and the peak before depths beyond the prompt."""
    with Worker(command, log, work.threads) as worker:
        found: dict[str, Any] = {"load": worker.read()["load"]}
        worker.ask(f"{FIRST_TOKEN_PROMPT} 0")
        found["first_token"] = time.perf_counter() - worker.started
        worker.ask(f"{work.prompt} 1")  # the first pass of a length makes kernels and buffers that the next one finds
        answer = worker.ask(f"{work.prompt} {work.new}")
        found["prefill"] = answer["prefill"]
        found["decode"] = {str(work.prompt): answer["decode"]}
        shallow, deep = (
            [depth for depth in work.depths if (depth > work.prompt) is beyond and depth != work.prompt]
            for beyond in (False, True)
        )
        for depth in shallow:
            found["decode"][str(depth)] = worker.ask(f"{max(depth, TINY_PROMPT)} {work.new}")["decode"]
        found |= worker.ask("peak")
        for depth in deep:
            found["decode"][str(depth)] = worker.ask(f"{depth} {work.new}")["decode"]
    return found
