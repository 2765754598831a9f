"""Memory of this process: available and peak."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from q3edge.errors import ResourceError, address_space

_PROC = Path("/proc")
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process may hold in all, present ones included; None where unknown (not Linux)."""
    try:
        held = int((_PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None
    free = free_memory()
    return None if free is None else held + free


def free_memory() -> int | None:
    """Bytes that this process may still take; None where unknown (not Linux).

    It is the smallest of what the machine, a container's limit and a service's (systemd's MemoryMax) leave.
    """
    try:
        free = 1024 * _entry(_PROC / "meminfo", "MemAvailable:")
    except (OSError, ValueError):
        return None
    for group in _control_groups():
        with suppress(OSError, ValueError):  # no limit: no such file, or the word "max"
            limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            free = min(free, limit - used + _entry(group / "memory.stat", "inactive_file"))
    return max(0, free)


def _control_groups() -> list[Path]:
    """Folders of the process's control group and of those around it (Linux's cgroups, version 2)."""
    own = Path()
    with suppress(OSError):
        for line in (_PROC / "self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                own = Path(line.removeprefix("0::/"))
    return [_CONTROL_GROUP / group for group in (own, *own.parents)]


def require_address_space(needed: int, what: str) -> None:
    """Raise ResourceError if a limit of this process's addresses (ulimit -v) leaves fewer than `needed` bytes.

    Some libraries abort where an allocation fails, so it is asked before they are. what: the subject of the message.
    """
    limit = address_space()
    if limit is None:
        return
    with suppress(OSError, ValueError):
        used = 1024 * _entry(_PROC / "self/status", "VmSize:")
        if used + needed > limit:
            raise ResourceError(
                f"{what}: not enough memory: {(used + needed) / 2**30:.2f} GiB are needed at least, this process may "
                f"use {limit / 2**30:.2f} GiB; raise the limit (ulimit -v)"
            )


def peak_memory() -> int:
    """Peak bytes that this program has held in memory. ResourceError: the system does not say.

    On Linux it is VmHWM: ru_maxrss survives exec, and so starts at the peak of the parent process.
    """
    with suppress(OSError, ValueError):
        return 1024 * _entry(_PROC / "self/status", "VmHWM:")
    try:
        import resource
    except ImportError:  # Windows
        raise ResourceError("this system does not tell the memory of a program: `bench` needs Linux or macOS") from None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _entry(path: Path, key: str) -> int:
    """Read the number after `key` in a file of lines "key number ..."; ValueError if there is none."""
    for line in path.read_text().splitlines():
        name, *values = line.split() or ("",)
        if name == key:
            return int(values[0])
    raise ValueError(f"{path}: has no {key}")
