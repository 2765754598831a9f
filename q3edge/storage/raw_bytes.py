"""Complete reads and writes of array bytes at an offset in a file: single system calls may transfer only a part."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bytes_of(array: NDArray[Any]) -> memoryview:
    """View of the bytes of a C-contiguous array of any shape, without a copy. ValueError: it is not contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(f"array of strides {array.strides}: expected a contiguous one")
    return array.reshape(-1).view(np.uint8).data


def read_at(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill `view` with the file's bytes from `offset` on. EOFError: the file ends before."""
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise EOFError(f"the file ends at byte {offset}")
        view, offset = view[count:], offset + count


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` to the file at byte `offset`."""
    view = memoryview(content)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
