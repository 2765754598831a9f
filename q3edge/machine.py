"""What this machine offers: memory bandwidth and speed of matrix products, measured; free memory; fast bfloat16."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

_PROBE_BYTES = 128 << 20  # well beyond any cache
_PROBE_WIDTH = 1024  # of the matrices: 2 GFLOP, tens of milliseconds
_PROC = Path("/proc")
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def read_bandwidth() -> float:
    """Bytes per second that one core reads from memory: the best of three passes over 128 MiB."""
    data = np.ones(_PROBE_BYTES // 8, np.int64)
    return _PROBE_BYTES / _best_seconds(data.sum)


def matrix_speed() -> float:
    """Floating-point operations per second of float32 matrix products on all cores: the best of three 1024 wide."""
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
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _entry(path: Path, key: str) -> int:
    """The number behind `key` in a file of lines "key number ..."; ValueError where there is none."""
    for line in path.read_text().splitlines():
        name, *values = line.split()
        if name == key:
            return int(values[0])
    raise ValueError(f"{path}: has no {key}")
