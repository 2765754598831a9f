"""Memory freed while a model is loaded goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, sys
from contextlib import nullcontext
from q3edge.runtime.session.heap import return_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

with return_freed_memory() if sys.argv[1] == "inside" else nullcontext():
    start = resident()
    blocks, pins = [], []
    for _ in range(1000):
        blocks.append(ctypes.c_void_p(libc.malloc(64 << 10)))
        ctypes.memset(blocks[-1], 1, 64 << 10)
        pins.append(libc.malloc(8 << 10))  # too large for holes that imports left, so that it lies between two blocks
    for block in blocks:
        libc.free(block)
    print(resident() - start)
"""


def kept(where: str) -> int:
    """Bytes that a process keeps of 64 MB in blocks of 64 kB, freed while smaller ones between them are in use."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, where], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and needs glibc")
def test_blocks_that_are_freed_inside_are_returned() -> None:
    assert kept("inside") < 16 << 20
    assert kept("outside") > 32 << 20  # or there would be nothing to do
