"""A small product by each instruction set against numpy, in a process of its own: `python -m q3edge.kernels.self_test`.

What an instruction set that this CPU does not have would end is that process alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

from q3edge.kernels.library import Library, MatrixShape, aligned_bytes, library

_ROWS, _GROUP, _GROUPS, _TOKENS = 33, 32, 4, 5
_SECONDS = 60.0  # after which the process is ended


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Result for one instruction set: whether its products are numpy's, and milliseconds; `problem`: empty if so."""

    instruction_set: str
    passed: bool
    milliseconds: float
    problem: str


def run_self_test(found: Library) -> tuple[SelfTest, ...]:
    """Let a process test each instruction set of a library; what ended the process is the problem of all."""
    command = [sys.executable, "-m", "q3edge.kernels.self_test"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return _all_failed(found, f"no result after {_SECONDS:.0f} s")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return _all_failed(found, f"the test ended with {done.returncode}" + (f" ({said[-1]})" if said else ""))
    return tuple(SelfTest(**each) for each in json.loads(done.stdout))


def _all_failed(found: Library, problem: str) -> tuple[SelfTest, ...]:
    return tuple(SelfTest(name, False, 0.0, problem) for name in found.instruction_sets)


def products_differ(found: Library, instruction_set: str, *, bits: int, symmetric: bool) -> str:
    """Compare a product of whole numbers, which int8 activations and float32 sums have exactly; empty: it is equal.

    Activations are -127 to 127, and 127 in each block, so that their scale is 1; scales are powers of two.
    """
    rng = np.random.default_rng(bits + symmetric)
    width = _GROUP * _GROUPS
    shape = MatrixShape(_ROWS, width, _GROUP, bits, symmetric, float32_scales=False)
    codes = rng.integers(0, 2**bits, (_ROWS, _GROUPS, _GROUP), np.uint8)
    scales = (2.0 ** rng.integers(-1, 1, (_ROWS, _GROUPS))).astype(np.float32)
    points = rng.integers(0, 2**bits, (_ROWS, _GROUPS), np.uint8)
    x = rng.integers(-127, 128, (_TOKENS, _GROUPS, _GROUP)).astype(np.float32)
    x[..., 0] = 127
    stored = codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4
    stored_points = points if bits == 8 else points[..., ::2] | points[..., 1::2] << 4
    packed = aligned_bytes(found.packed_bytes(shape))
    found.pack(shape, np.ascontiguousarray(stored), scales, None if symmetric else stored_points.copy(), packed)
    zero = np.float64(2 ** (bits - 1)) if symmetric else points[..., None].astype(np.float64)
    weights = ((codes - zero) * scales[..., None]).reshape(_ROWS, width)
    rows = x.reshape(_TOKENS, width)
    result = found.multiply(instruction_set, shape, packed, rows)
    worst = np.abs(result - rows.astype(np.float64) @ weights.T).max()
    return "" if worst == 0 else f"{bits} bits: a product is {worst:.3g} off"


def _tested(found: Library, instruction_set: str) -> SelfTest:
    start = time.perf_counter()
    kinds = [(bits, symmetric) for bits in (4, 8) for symmetric in (True, False)]
    wrong = [products_differ(found, instruction_set, bits=bits, symmetric=symmetric) for bits, symmetric in kinds]
    problem = "; ".join(filter(None, wrong))
    return SelfTest(instruction_set, not problem, 1000 * (time.perf_counter() - start), problem)


if __name__ == "__main__":
    loaded = library()
    assert loaded is not None
    print(json.dumps([asdict(_tested(loaded, name)) for name in loaded.instruction_sets]))
