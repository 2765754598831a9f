"""How much memory this process may have, and had."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process may come to hold in all; None where the system does not tell (not Linux).

    What the container's limit leaves counts where that is less than what the machine has.
    """
    try:
        held = int((_PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        free = 1024 * _entry(_PROC / "meminfo", "MemAvailable:")
    except (OSError, ValueError):
        return None
    with suppress(OSError, ValueError):  # no limit: no such file, or the word "max"
        limit, used = (int((_CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used + _entry(_CONTROL_GROUP / "memory.stat", "inactive_file"))
    return held + max(0, free)


def peak_memory() -> int:
    """The most bytes that this program has held in memory.

    On Linux VmHWM: ru_maxrss survives exec, and so begins at what the process that started this one had held.
    """
    with suppress(OSError, ValueError):
        return 1024 * _entry(_PROC / "self/status", "VmHWM:")
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _entry(path: Path, key: str) -> int:
    """The number behind `key` in a file of lines "key number ..."; ValueError where there is none."""
    for line in path.read_text().splitlines():
        name, *values = line.split() or ("",)
        if name == key:
            return int(values[0])
    raise ValueError(f"{path}: has no {key}")
