"""Bytes of arrays, read and written at a place in a file in full: the system's calls may do a part of what is asked."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array of any shape, without a copy. ValueError: it is not contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(f"array of strides {array.strides}: expected a contiguous one")
    return array.reshape(-1).view(np.uint8).data


def read_at(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill `view` from byte `offset` of the file on. EOFError: it ends before."""
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise EOFError(f"the file ends at byte {offset}")
        view, offset = view[count:], offset + count


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` from byte `offset` of the file on."""
    view = memoryview(content)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
