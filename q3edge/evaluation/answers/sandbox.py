"""`Sandbox`: runs programs written by a model, in restricted processes.

The kernel limits time, memory, files and processes; where `unshare` works, it also removes the network and ends every
process that a program started. Writing outside the program's own folder is refused by Python only: for untrusted models
run q3edge in a container.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from q3edge.errors import ResourceError

CPU_SECONDS = 10
WALL_SECONDS = 15.0
MEMORY = 512 << 20
FILE_BYTES = 1 << 20
_NOBODY = 65534
_STAY = -1
_WORKER = Path(__file__).with_name("sandbox_worker.py")
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "PATH")  # without which some Pythons do not start
_PROBE = "import json, math, typing\njson.dumps(math.pi)"
_LONGEST_REASON = 300
_UNSHARE_CONFUSED = "unshare: sigprocmask"  # how util-linux 2.38 says that a signal ended a program


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a program: whether it ran to its end; if not, why: its last line on stderr, or the limit it met."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Way of running programs on this machine. prefix: a command that removes the network and gives a program
    processes of its own, which end with it; or only the former; or nothing. user: id to run as; -1: the current one.
    """

    prefix: tuple[str, ...]
    user: int

    @classmethod
    def open(cls) -> Sandbox:
        """Find the strictest sandbox that works here. ResourceError: none does."""
        if sys.platform == "win32":
            raise ResourceError("programs can be run under limits on Linux and macOS only; leave out --allow-code")
        reason = ""
        for candidate in _candidates():
            outcome = candidate.run(_PROBE)
            if outcome.passed:
                return candidate
            reason = outcome.reason
        raise ResourceError(f"a sandbox for programs cannot be started ({reason}); leave out --allow-code")

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """Protections that are missing on this machine, each as a sentence."""
        found = []
        if not self.prefix:
            found.append("programs had access to the network: `unshare` does not work here")
        if "--pid" not in self.prefix:
            found.append("programs could leave processes behind: `unshare --pid` does not work here")
        if self.user == _STAY and os.geteuid() == 0:
            found.append(
                "programs ran as root, as Python's folder cannot be read by others: processes were not limited"
            )
        return tuple(found)

    def run(self, program: str, *, wall_seconds: float = WALL_SECONDS, memory: int = MEMORY) -> Outcome:
        """Run Python source to its end in an empty folder; the folder and its processes (see `weaknesses`) end with it.

        memory: bytes of address space, the interpreter's own included.
        """
        word = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="q3edge-sandbox-", ignore_cleanup_errors=True) as name:
            if self.user != _STAY:
                os.chown(name, self.user, -1)
            # Files, not pipes: the kernel bounds how much is written to them.
            with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as errors:
                process = subprocess.Popen(
                    self._command(memory),
                    stdin=subprocess.PIPE,
                    stdout=report,
                    stderr=errors,
                    cwd=name,
                    env={key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ},
                    start_new_session=True,
                )
                try:
                    process.communicate(f"{word}\n{program}".encode(errors="replace"), wall_seconds)
                except subprocess.TimeoutExpired:
                    return Outcome(False, f"not finished after {wall_seconds:g} s")
                finally:
                    _end(process)
                report.seek(0)
                if report.read(2 * len(word)) == word.encode():
                    return Outcome(True, "")
                return Outcome(False, _reason(process.returncode, errors))

    def _command(self, memory: int) -> list[str]:
        limits = map(str, (CPU_SECONDS, memory, FILE_BYTES, self.user))
        return [*self.prefix, sys.executable, "-I", str(_WORKER), *limits]


def _candidates() -> Iterator[Sandbox]:
    """Sandboxes from strict to lax. Root becomes nobody where it can: limits on processes do not hold for root."""
    root = os.geteuid() == 0
    unshare = shutil.which("unshare")
    prefixes: list[tuple[str, ...]] = [()]
    if unshare:
        network = (unshare, "--net") if root else (unshare, "--map-root-user", "--net")
        prefixes = [(*network, "--pid", "--fork", "--kill-child"), network, ()]
    for user in (_NOBODY, _STAY) if root else (_STAY,):
        for prefix in prefixes:
            yield Sandbox(prefix, user)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group, which may outlive it."""
    with suppress(ProcessLookupError, PermissionError):  # no process is left
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _reason(code: int, errors: IO[bytes]) -> str:
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _LONGEST_REASON))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    if lines and lines[-1].startswith(_UNSHARE_CONFUSED):
        return "ended by a signal"
    return lines[-1] if lines else f"exit code {code} before its end"
