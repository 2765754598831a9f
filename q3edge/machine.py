"""What this machine offers: its memory bandwidth, measured."""

from __future__ import annotations

import time

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
