"""Run one program under limits: started by `sandbox` as a process of its own, so it imports nothing of q3edge.

argv: CPU seconds, bytes of memory, bytes of a file, and the user id to become (-1: stay). stdin: a line with a secret
word, then the program. The word is printed once the program has run to its end: an `exit(0)` is no success.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import Any

_OPEN_FILES = 64
_PR_SET_PDEATHSIG = 1
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = (
    "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.link", "os.posix_spawn",
    "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.symlink", "os.system", "os.truncate", "pty.spawn", "shutil.",
    "signal.pthread_kill", "socket.", "subprocess.", "ctypes.",
)  # fmt: skip


def main() -> None:
    """Read the program, give up everything it does not need, run it, print the word."""
    seconds, memory, file_bytes, user = map(int, sys.argv[1:])
    word, _, program = sys.stdin.read().partition("\n")
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _limit(seconds, memory, file_bytes)
    if user >= 0:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    if sys.platform == "linux":  # unshare --kill-child has asked for this too, but setuid makes the kernel forget it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _forbid(os.path.realpath(os.getcwd()))
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    os.write(report, word.encode())


def _limit(seconds: int, memory: int, file_bytes: int) -> None:
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NPROC, 1),  # none besides this one
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _forbid(folder: str) -> None:
    """Refuse what no exercise needs. This stops accidents; the kernel sets the limits and removes the network."""
    inside = folder + os.sep

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if flags & _WRITING and not isinstance(path, int) and not os.path.realpath(path).startswith(inside):
                raise PermissionError(f"the sandbox refuses to write {path}")
        elif event.startswith(_REFUSED):
            raise PermissionError(f"the sandbox refuses {event}")

    sys.addaudithook(check)


if __name__ == "__main__":
    main()
