"""Memory freed while a model is loaded goes back to the system, and parts of arrays that hold nothing more."""

from __future__ import annotations

import mmap
import subprocess
import sys

import numpy as np
import pytest

from q3edge.runtime.session.heap import release_pages

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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the pages")
def test_pages_of_an_array_are_released_and_its_ends_are_not() -> None:
    array = np.ones(20 * mmap.PAGESIZE, np.uint8)
    inner = array[100:-100]
    release_pages(inner)
    assert array[:100].all()
    assert array[-100:].all()
    assert 18 * mmap.PAGESIZE <= np.count_nonzero(array == 0) <= 20 * mmap.PAGESIZE
    release_pages(array[:10])  # no whole page
    assert array[:10].all()
