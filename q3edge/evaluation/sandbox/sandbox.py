"""`Sandbox`: runs a program that a model wrote where the kernel contains it, and has it judged from outside.

Two processes for each program that is judged: one runs it, the other runs the exercise's test and calls the program's
function in the first. Both are confined alike, and neither reaches the other but by these calls.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from q3edge import progress
from q3edge.errors import ResourceError
from q3edge.evaluation.sandbox.confinement import Kernel, Limits, find_kernel
from q3edge.evaluation.sandbox.folders import MAX_BYTES, MAX_ENTRIES, is_overfull
from q3edge.evaluation.sandbox.worker import READY
from q3edge.plain_line import plain_line
from q3edge.storage.removal import remove_folder
from q3edge.storage.whole_files import scratch_folder

CPU_SECONDS = 10
WALL_SECONDS = 15.0
MEMORY = 512 << 20
FILE_BYTES = 1 << 20
_OPEN_FILES = 64
_LOOK_SECONDS = 0.1  # between two looks into the folders
_END_SECONDS = 1.0  # for a program that has closed its connection
_ROOT = str(Path(__file__).parents[3])
_START = f"import sys; sys.path.insert(0, {_ROOT!r}); import q3edge.evaluation.sandbox.worker as worker; "
_START += f"sys.path.remove({_ROOT!r}); worker.main()"
_PYTHON = (sys.executable, "-I", "-B", "-X", "utf8", "-c", _START)
_LONGEST_REASON = 300  # characters
_PASSED = {"passed": True, "failed": False, "unfit": None}  # by the judge's verdict
_ADVICE = "run q3edge on Linux 5.13 or newer (x86-64, Arm64), or leave out --allow-code"

_ESCAPES = """
import os, socket
def escaped(readable, writable):
    found = []
    for name, attempt in (
        ("read a file", lambda: open(readable).close()),
        ("write a file", lambda: open(writable, "a").close()),
        ("start a process", lambda: os.fork() or os._exit(0)),
        ("open a socket", socket.socket),
    ):
        try:
            attempt()
            found.append(name)
        except OSError:
            pass
    return found
"""
_CONTAINED = "def check(escaped):\n    found = escaped({!r}, {!r})\n    assert not found, 'could ' + ', '.join(found)\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict on a program. passed None: its test is at fault, and reason says how; False: reason says what failed."""

    passed: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Printed:
    """What a program printed, UTF-8 with U+FFFD for what is none, and why it failed, a line; empty: it did not."""

    text: str
    failure: str


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Sandbox for programs on this kernel."""

    kernel: Kernel

    @classmethod
    def open(cls, find: Callable[[], Kernel] = find_kernel) -> Sandbox:
        """Check that programs are contained here, by one that tries to escape. ResourceError: they are not, and why."""
        try:
            sandbox = cls(find())
            with tempfile.NamedTemporaryFile() as file:
                test = _CONTAINED.format(file.name, f"{file.name}.escaped")
                outcome = sandbox.judge(_ESCAPES, test=test, entry_point="escaped")
                Path(f"{file.name}.escaped").unlink(missing_ok=True)
        except ResourceError as error:
            outcome = Outcome(None, str(error))
        if not outcome.passed:
            raise ResourceError(f"programs of models cannot be contained here ({outcome.reason}): {_ADVICE}")
        return sandbox

    def judge(
        self,
        source: str,
        *,
        test: str,
        entry_point: str,
        prompt: str = "",
        wall_seconds: float = WALL_SECONDS,
        memory: int = MEMORY,
    ) -> Outcome:
        """Run Python source and judge its function `entry_point` by `check` of `test`, as HumanEval has it.

        prompt: Python source, whose definitions the test knows. memory: bytes of address space, the interpreter's own
        included. ResourceError: a process cannot be started or confined.
        """
        limits = Limits(CPU_SECONDS, memory, FILE_BYTES, _OPEN_FILES)
        job = {"source": source, "test": None, "entry_point": entry_point}
        judging = {"prompt": prompt, "test": test, "entry_point": entry_point}
        with ExitStack() as stack:
            scratch, ends = stack.enter_context(scratch_folder("q3edge-sandbox-")), socket.socketpair()
            with ends[0], ends[1]:
                program = stack.enter_context(_Worker(scratch / "program", self._options(limits, ends[0]), job))
                judge = stack.enter_context(_Worker(scratch / "judge", self._options(limits, ends[1]), judging))
            reason = _wait(judge, [program.folder], wall_seconds)
            verdict, detail = judge.verdict() if reason is None else ("", "")
            if verdict == "ended":
                program.wait(_END_SECONDS)
            program.end()
            judge.end()
            program.check_started()
            judge.check_started()
            if verdict == "ended":
                return Outcome(False, program.failure())
            if verdict not in _PASSED:
                return Outcome(False, reason or f"the test: {judge.failure()}")
            return Outcome(_PASSED[verdict], detail)

    def run(self, source: str, *, wall_seconds: float = WALL_SECONDS, memory: int = MEMORY) -> Printed:
        """Run Python source, and return what it printed to stdout, at most 1 MiB. Limits and errors are as in `judge`.

        What a program printed is its own word: nothing about it is judged.
        """
        limits = Limits(CPU_SECONDS, memory, FILE_BYTES, _OPEN_FILES)
        job = {"source": source, "test": None, "entry_point": None}
        with ExitStack() as stack:
            scratch, ends = stack.enter_context(scratch_folder("q3edge-sandbox-")), socket.socketpair()
            with ends[0], ends[1]:
                program = stack.enter_context(_Worker(scratch / "program", self._options(limits, ends[0]), job))
            reason = _wait(program, [], wall_seconds)
            program.end()
            program.check_started()
            return Printed(program.printed(), reason or program.failure_of_end())

    def _options(self, limits: Limits, connection: socket.socket) -> dict[str, Any]:
        return {
            "kernel": asdict(self.kernel), "limits": asdict(limits), "parent": os.getpid(),
            "connection": connection.fileno(),
        }  # fmt: skip


class _Worker:
    """Process that runs `worker`, with a folder of its own, which is gone when the context is left."""

    def __init__(self, folder: Path, options: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        self.folder = folder
        self._options = options
        self._job = json.dumps(job).encode()
        self._stack = ExitStack()
        self._ended_here = False

    def __enter__(self) -> _Worker:
        with self._stack:
            self.folder.mkdir()
            self._stack.callback(_remove, self.folder)
            # Files, not pipes: the kernel bounds how much is written to them.
            job = self._stack.enter_context(tempfile.TemporaryFile())
            self._report = self._stack.enter_context(tempfile.TemporaryFile())
            self._errors = self._stack.enter_context(tempfile.TemporaryFile())
            job.write(self._job)
            job.seek(0)
            try:
                self._process = subprocess.Popen(
                    [*_PYTHON, json.dumps(self._options)],
                    stdin=job,
                    stdout=self._report,
                    stderr=self._errors,
                    cwd=self.folder,
                    env=_environment(self.folder),
                    pass_fds=(self._options["connection"],),
                    start_new_session=True,
                )
            except OSError as error:
                raise ResourceError(f"a process for a program cannot be started: {error}") from None
            self._stack.callback(self.end)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; tells whether it has come."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def end(self) -> None:
        """End the process; it has no others."""
        self._ended_here = self._process.poll() is None
        self._process.kill()
        self._process.wait()

    def check_started(self) -> None:
        """ResourceError: the process ended by itself before it was confined, so before it ran anything."""
        self._report.seek(0)
        if self._report.read(len(READY)) != READY and not self._ended_here:
            raise ResourceError(f"a process for a program cannot be confined: {self.failure()}")

    def verdict(self) -> tuple[str, str]:
        """Verdict of a judge, empty where it ended before, and the line that says why."""
        self._report.seek(len(READY))
        verdict, _, reason = self._report.read().decode(errors="replace").partition(" ")
        return verdict, plain_line(reason[:_LONGEST_REASON])

    def printed(self) -> str:
        """What a program that is not judged has printed."""
        self._report.seek(len(READY))
        return self._report.read().decode(errors="replace")

    def failure_of_end(self) -> str:
        """Why the process failed; empty where it came to its end."""
        return self.failure() if self._process.returncode else ""

    def failure(self) -> str:
        """Why the process ended: a signal, or its last line on stderr."""
        code = self._process.returncode
        if code < 0:
            known = {number.value: number.name for number in signal.Signals}  # not all of the real-time signals
            return f"ended by signal {known.get(-code, -code)}"
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LONGEST_REASON))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return plain_line(lines[-1]) if lines else f"exit code {code} before its end"


def _environment(folder: Path) -> dict[str, str]:
    """Environment of a worker: where Python's libraries are, if that is set, its folder, and no threads for numpy."""
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {**libraries, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _wait(worker: _Worker, folders: Sequence[Path], wall_seconds: float) -> str | None:
    """Wait for a worker; returns the limit that was met before its end, None for none. folders: looked into as its."""
    deadline = time.monotonic() + wall_seconds
    while not worker.wait(max(0.0, min(_LOOK_SECONDS, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return f"not finished after {wall_seconds:g} s"
        if any(map(is_overfull, (*folders, worker.folder))):
            return f"more than {MAX_ENTRIES} files or {MAX_BYTES >> 20} MiB in its folder"
    return None


def _remove(folder: Path) -> None:
    try:
        remove_folder(folder)
    except OSError as error:
        progress.note(f"{folder}, where a program ran, stays: {error}")
