"""What this machine offers: memory bandwidth and speed of matrix products, measured; free memory; fast bfloat16."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

_PROBE_BYTES = 128 << 20  # well beyond any cache
_PASSES = 5
_PROBE_WIDTH = 1024  # of the matrices: 2 GFLOP, tens of milliseconds
_PROC = Path("/proc")
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def read_bandwidth(threads: int = 1) -> float:
    """Bytes per second that `threads` threads together read from memory: the best of some passes over 128 MiB."""
    parts = np.array_split(np.ones(_PROBE_BYTES // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:  # numpy's sum runs without the interpreter's lock
        return _PROBE_BYTES / _best_seconds(lambda: list(pool.map(np.sum, parts)))


def matrix_speed() -> float:
    """Floating-point operations per second of float32 matrix products on all cores: the best of some 1024 wide."""
    matrix = np.ones((_PROBE_WIDTH, _PROBE_WIDTH), np.float32)
    return 2 * _PROBE_WIDTH**3 / _best_seconds(lambda: matrix @ matrix)


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


def cpu_name() -> str:
    """The CPU's name and how many cores of it this process may use; "unknown" where the system does not tell."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = []
    with suppress(OSError):
        lines = (_PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.processor() or 'unknown')} ({cores} cores)"


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware (AVX512-BF16, AMX, Arm's BF16); elsewhere it is slow."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _best_seconds(work: Callable[[], object]) -> float:
    work()
    best = float("inf")
    for _ in range(_PASSES):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _entry(path: Path, key: str) -> int:
    """The number behind `key` in a file of lines "key number ..."; ValueError where there is none."""
    for line in path.read_text().splitlines():
        name, *values = line.split() or ("",)
        if name == key:
            return int(values[0])
    raise ValueError(f"{path}: has no {key}")
