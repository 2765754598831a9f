"""Writing a GGUF file as a stream: the header first, then row blocks of any tensor in any order."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.checkpoint.gguf.header import DEFAULT_ALIGNMENT
from q3edge.checkpoint.gguf.tensor_types import TYPES
from q3edge.storage.raw_bytes import bytes_of
from q3edge.storage.streamed_file import StreamedFile

Value = bool | int | float | str | list[str] | list[int]
_VERSION: Final = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


class GgufWriter(StreamedFile):
    """Writer of a file with metadata and the given tensors, name -> (name of its type, shape); filled by `append`.

    Integers are stored as uint32, lists of them as int32, floats as float32. OSError passes through.
    """

    def __init__(
        self, path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, Value]
    ) -> None:
        super().__init__(path, *_laid_out(entries, metadata))

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Write the next rows of a tensor as they are stored. ValueError: more than its shape has."""
        self.write(name, bytes_of(np.ascontiguousarray(rows)))


def file_bytes(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, Value]) -> int:
    """Bytes of the file that `GgufWriter` writes of them."""
    header, _, size = _laid_out(entries, metadata)
    return len(header) + size


def tensor_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor, without the padding up to the next one."""
    return math.prod(shape[:-1]) * TYPES[kind].row_bytes(shape[-1])


def padded(nbytes: int) -> int:
    """Bytes up to the place where a next tensor begins."""
    return nbytes + -nbytes % DEFAULT_ALIGNMENT


def _laid_out(
    entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, Value]
) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Header, first and last byte of each tensor behind it, and bytes of all of them."""
    parts: dict[str, tuple[int, int]] = {}
    header = [b"GGUF", struct.pack("<IQQ", _VERSION, len(entries), len(metadata))]
    header += (_text(key) + _typed(value) for key, value in metadata.items())
    offset = 0
    for name, (kind, shape) in entries.items():
        header.append(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        header.append(struct.pack("<IQ", TYPES[kind].number, offset))
        nbytes = tensor_bytes(kind, shape)
        parts[name] = (offset, offset + nbytes)
        offset += padded(nbytes)
    text = b"".join(header)
    return text.ljust(padded(len(text)), b"\0"), parts, offset


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
