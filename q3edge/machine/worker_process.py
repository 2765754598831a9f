"""`Worker`: a child process for work on untrusted input, with a deadline; it is killed where it is late.

It runs a Python script and talks by one JSON object a line (`worker_script` is the other end). The first says
{"path": folders of modules} and is answered by {"ready": true}. Whatever the script does, crashing included, ends in an
answer or in `WorkerDiedError`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from q3edge.errors import ResourceError

_START_SECONDS = 60.0  # for a cold disk on a small board
_MAX_REPLY = 200 * 2**20  # bytes: 16 Mi characters, JSON-escaped
_ROOT = str(Path(__file__).parents[2])  # an editable installation may have q3edge by a hook, not in sys.path
_KEPT_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH")  # without which some Pythons do not start


class WorkerDiedError(Exception):
    """The worker was killed at its deadline, or ended early or sent invalid JSON; says which."""


class Worker:
    """Child process that runs a script, and another after one that died. Thread-safe; its end is that of the process.

    process: the present one; None: the next request starts it.
    """

    def __init__(self, script: Path, what: str) -> None:
        """Start the process; `what` says in errors what it is for."""
        self._script, self._what = script, what
        self._lock = threading.Lock()
        self.process: WorkerProcess | None = WorkerProcess(script)

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send one object and return the answer. ResourceError: the process does not start.

        WorkerDiedError: it took more than `seconds`, ended early or answered nonsense.
        """
        with self._lock:
            self.process = self.process or WorkerProcess(self._script)
            try:
                self.process.wait_until_ready(self._what)
                return self.process.exchange(request, seconds)
            except BaseException:  # Ctrl-C, too: a reply that nobody read would answer the next request
                self._stop()
                raise

    def stop(self) -> None:
        """End the process; a later request starts another."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self.process is not None:
            self.process.stop()
        self.process = None


class WorkerProcess:
    """Process of a `Worker`; `stop`, or the end of this object, ends it."""

    def __init__(self, script: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        )  # fmt: skip
        self._ready = False
        self.stop = weakref.finalize(self, _stop, self._process)

    def wait_until_ready(self, what: str) -> None:
        """Wait for its start, once. ResourceError, which names `what` it is for: it does not start."""
        if self._ready:
            return
        try:
            self._ready = self.exchange({"path": [*sys.path, _ROOT]}, _START_SECONDS).get("ready") is True
        except WorkerDiedError:
            raise ResourceError(f"{what} ({sys.executable}) did not start") from None

    def exchange(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send one object and read one; the process is killed after `seconds`, which ends the read.

        WorkerDiedError: there is no answer, and the process is of no more use.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        try:
            timer.start()  # which a signal may end with the timer running
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            reply = json.loads(self._process.stdout.readline(_MAX_REPLY))
        except (OSError, ValueError):
            raise WorkerDiedError(f"took more than {seconds:g} s" if late.is_set() else "ended its process") from None
        finally:
            timer.cancel()
        if not isinstance(reply, dict):
            raise WorkerDiedError("answered nonsense")
        return reply


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what was still to be written
                pipe.close()
