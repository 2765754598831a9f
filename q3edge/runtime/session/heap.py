"""What the C library does with memory freed while a model is loaded. Only glibc keeps much of it.

`mallopt` is for the whole process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# glibc's mallopt(3). Left alone, the threshold is 128 kB and grows with the largest block freed, up to _USUAL_BLOCK.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL_BLOCK = 32 << 20
_SMALL_BLOCK = 16 << 10


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """Blocks of 16 kB or more that are freed inside go back to the system at once; for the whole process.

    onnxruntime frees what constant folding leaves behind before it packs weights: kept by the C library, that would be
    part of the peak. Afterwards blocks are kept as usual, as giving them back costs time in every call.
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


def _mallopt() -> Callable[[int, int], int] | None:
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl have none, Windows no library of that name
        return None
    return found
