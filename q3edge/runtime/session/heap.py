"""Return of memory to the system: what is freed while a model is loaded, and parts of arrays that hold nothing more.

Of what is freed only glibc keeps much; its `mallopt` applies to the whole process.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

# glibc's mallopt(3). Left alone, the threshold is 128 kB and grows with the largest block freed, up to _USUAL_BLOCK.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL_BLOCK = 32 << 20
_SMALL_BLOCK = 16 << 10


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """Return blocks of 16 kB or more that are freed inside to the system at once; for the whole process.

    onnxruntime frees the leftovers of constant folding before it packs weights: kept by the C library, they would be
    part of the peak. Afterwards blocks are kept as usual, as returning them costs time in every call.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _SMALL_BLOCK)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _USUAL_BLOCK)
        mallopt(_TRIM_THRESHOLD, 2 * _USUAL_BLOCK)


def release_pages(array: NDArray[Any]) -> None:
    """Return the whole pages of a contiguous array, which reads as zeros there afterwards; on Linux alone.

    Elsewhere they hold what they held: nothing may depend on them.
    """
    _advise(array, "MADV_DONTNEED")


def take_pages_singly(array: NDArray[Any]) -> None:
    """Let an array of zeros take memory page by page, as it is written; on Linux alone.

    numpy asks for pages of 2 MB for arrays of 4 MB or more, so that a byte here and there would take all of it.
    """
    _advise(array, "MADV_NOHUGEPAGE")


def _advise(array: NDArray[Any], advice: str) -> None:
    if sys.platform != "linux":
        return
    page, start = mmap.PAGESIZE, array.ctypes.data
    first, end = -(-start // page) * page, (start + array.nbytes) // page * page
    if first < end:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), getattr(mmap, advice))


def _mallopt() -> Callable[[int, int], int] | None:
    """The C library's mallopt; None where it has none."""
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl have none, Windows no library of that name
        return None
    return found
