"""Writing a GGUF file as a stream: the header first, then row blocks of any tensor in any order."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.checkpoint.gguf.header import DEFAULT_ALIGNMENT
from q3edge.checkpoint.gguf.tensor_types import TYPES
from q3edge.storage.raw_bytes import bytes_of, write_at
from q3edge.storage.regular_files import BINARY

Value = bool | int | float | str | list[str] | list[int]
_VERSION: Final = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


class GgufWriter:
    """Writer of a file with metadata and the given tensors, name -> (name of its type, shape); filled by `append`.

    Integers are stored as uint32, lists of them as int32, floats as float32. OSError passes through.
    """

    def __init__(
        self, path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, Value]
    ) -> None:
        self.path = path
        self._cursor, self._end = dict[str, int](), dict[str, int]()
        header = [b"GGUF", struct.pack("<IQQ", _VERSION, len(entries), len(metadata))]
        header += (_text(key) + _typed(value) for key, value in metadata.items())
        offset = 0
        for name, (kind, shape) in entries.items():
            header.append(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
            header.append(struct.pack("<IQ", TYPES[kind].number, offset))
            nbytes = math.prod(shape[:-1]) * TYPES[kind].row_bytes(shape[-1])
            self._cursor[name], self._end[name] = offset, offset + nbytes
            offset += nbytes + -nbytes % DEFAULT_ALIGNMENT
        text = b"".join(header)
        self._data_start = len(text) + -len(text) % DEFAULT_ALIGNMENT
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        write_at(self._fd, text.ljust(self._data_start, b"\0"), 0)
        os.ftruncate(self._fd, self._data_start + offset)

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Write the next rows of a tensor as they are stored. ValueError: more than its shape has."""
        content = bytes_of(np.ascontiguousarray(rows))
        if self._cursor[name] + len(content) > self._end[name]:
            raise ValueError(f"{name}: more rows than its shape")
        write_at(self._fd, content, self._data_start + self._cursor[name])
        self._cursor[name] += len(content)

    def close(self) -> None:
        """Finish the file. ValueError: a tensor is incomplete."""
        self._close_fd()
        if incomplete := [name for name in self._end if self._cursor[name] != self._end[name]]:
            raise ValueError(f"{self.path}: {len(incomplete)} tensors are incomplete, the first is {incomplete[0]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._close_fd()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _typed(value: Value) -> bytes:
    """Type and value of a key."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_text(str(text)) for text in value)
    return struct.pack("<IIQ", _ARRAY, _INT32, len(value)) + np.array(value, "<i4").tobytes()
