"""Complete reads and writes of array bytes at an offset in a file: single system calls may transfer only a part."""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POSITIONED = hasattr(os, "preadv") and hasattr(os, "pwrite")  # not on Windows
_position = Lock()  # of files, where reading at an offset takes two calls
_PIECE = 1 << 24  # bytes


def bytes_of(array: NDArray[Any]) -> memoryview:
    """View of the bytes of a C-contiguous array of any shape, without a copy. ValueError: it is not contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(f"array of strides {array.strides}: expected a contiguous one")
    return array.reshape(-1).view(np.uint8).data


def read_at(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill `view` with the file's bytes from `offset` on. EOFError: the file ends before."""
    while view:
        count = _read_into(descriptor, view, offset)
        if not count:
            raise EOFError(f"the file ends at byte {offset}")
        view, offset = view[count:], offset + count


def read_up_to(descriptor: int, length: int, offset: int) -> bytes:
    """Read the file's bytes from `offset` on, at most `length`; fewer only where the file ends."""
    content, done = bytearray(max(0, min(length, os.fstat(descriptor).st_size - offset))), 0
    while done < len(content) and (count := _read_into(descriptor, memoryview(content)[done:], offset + done)):
        done += count
    return bytes(content[:done])


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` to the file at byte `offset`."""
    view = memoryview(content)
    while view:
        count = _write_from(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _read_into(descriptor: int, view: memoryview, offset: int) -> int:
    if _POSITIONED:
        return os.preadv(descriptor, [view], offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        content = os.read(descriptor, min(len(view), _PIECE))
    view[: len(content)] = content
    return len(content)


def _write_from(descriptor: int, view: memoryview, offset: int) -> int:
    if _POSITIONED:
        return os.pwrite(descriptor, view, offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, view[:_PIECE])
