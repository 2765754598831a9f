"""What this machine offers: its memory bandwidth, measured, and fast bfloat16."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

_PROBE_BYTES = 128 << 20  # well beyond any cache


def read_bandwidth() -> float:
    """Bytes per second that one core reads from memory: the best of three passes over 128 MiB."""
    data = np.ones(_PROBE_BYTES // 8, np.int64)
    data.sum()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - start)
    return _PROBE_BYTES / best


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware (AVX512-BF16, AMX, Arm's BF16); elsewhere it is slow."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
