"""Memory of this process: available and peak."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from q3edge.errors import ResourceError, address_space

_PROC = Path("/proc")
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # of "always [madvise] never"


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
    for root, own, names in _control_groups():
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):  # no limit: no such file, or the word "max"
                limit, used = (int((root / group / f"memory.{name}").read_text()) for name in names[:2])
                free = min(free, limit - used + _entry(root / group / "memory.stat", names[2]))
    return max(0, free)


def total_memory() -> int | None:
    """Bytes of memory of this machine; None where unknown (not Linux)."""
    try:
        return 1024 * _entry(_PROC / "meminfo", "MemTotal:")
    except (OSError, ValueError):
        return None


def huge_pages() -> str | None:
    """Whether the system gives transparent huge pages: "always", "madvise" or "never"; None where unknown."""
    try:
        found = _HUGE_PAGES.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return None
    return found or None


def _control_groups() -> list[tuple[Path, Path, tuple[str, str, str]]]:
    """Control groups of this process, of version 2 and of version 1, whose limits also hold for groups in them.

    For each the folder of all groups, the own one below it, and names: of the limit, of what is used, and of the pages
    of files among that which are given up first.
    """
    own = Path(), Path()
    with suppress(OSError):
        for line in (_PROC / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                own = Path(path.removeprefix("/")), own[1]
            elif "memory" in controllers.split(","):
                own = own[0], Path(path.removeprefix("/"))
    return [
        (_CONTROL_GROUP, own[0], ("max", "current", "inactive_file")),
        (_CONTROL_GROUP / "memory", own[1], ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")),
    ]


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
