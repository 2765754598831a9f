"""`serve`: the loop of a script that a `Worker` runs, with its limits. It gives up nothing but memory by itself."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

_ORPHAN_SECONDS = 10  # if the parent process is gone, the system's alarm ends work that does not end


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]], *, memory: int) -> None:
    """Answer requests, one JSON object a line, from stdin until it closes; `memory`: bytes of address space.

    Before, the script ignores SIGINT, sets sys.path from the first line and imports what it needs.
    """
    _limit_memory(memory)
    _reply({"ready": True})
    for line in sys.stdin:
        if hasattr(signal, "alarm"):  # not on Windows
            signal.alarm(_ORPHAN_SECONDS)
        _reply(answer(json.loads(line)))
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _limit_memory(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows; the parent's deadline remains
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ValueError, OSError):  # macOS refuses RLIMIT_AS
        return


def _reply(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
