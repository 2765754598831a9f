"""Measured speed of this machine: memory bandwidth and matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_PROBE_BYTES = 128 << 20  # well beyond any cache
_PASSES = 5
BFLOAT16_GAIN = 2.0  # assumed: of matrix products in bfloat16 where the CPU multiplies it
_PROBE_WIDTH = 1024  # of the matrices: 2 GFLOP, tens of milliseconds


def read_bandwidth(threads: int = 1) -> float:
    """Measure bytes per second that `threads` threads read from memory: the best of 5 passes over 128 MiB."""
    parts = np.array_split(np.ones(_PROBE_BYTES // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:  # numpy's sum runs without the interpreter's lock
        return _PROBE_BYTES / _best_seconds(lambda: list(pool.map(np.sum, parts)))


def matrix_speed() -> float:
    """Measure operations per second of float32 matrix products on all cores: the best of 5, 1024 x 1024."""
    matrix = np.ones((_PROBE_WIDTH, _PROBE_WIDTH), np.float32)
    return 2 * _PROBE_WIDTH**3 / _best_seconds(lambda: matrix @ matrix)


def _best_seconds(work: Callable[[], object]) -> float:
    work()
    best = float("inf")
    for _ in range(_PASSES):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
