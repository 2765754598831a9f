"""Files of arrays and a JSON note, every part with its sha256: read whole in one pass, or the note alone.

Layout: sha256 of the header, its length as 8 bytes little-endian, the header (JSON: name, dtype, shape and sha256 of
each array, and the note), then the arrays' bytes one after the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from q3edge.storage.raw_bytes import bytes_of, read_at, read_up_to
from q3edge.storage.regular_files import open_regular
from q3edge.storage.whole_files import ADVICE, written_whole

_CHECKSUM = 32  # bytes of a sha256
_START = _CHECKSUM + 8  # of the header


class DamagedFileError(ValueError):
    """The file differs from what was written."""


class _Header(NamedTuple):
    arrays: list[tuple[str, str, list[int], str]]
    note: Any
    end: int


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], note: object = None, advice: str = ADVICE) -> None:
    """Replace the file atomically by named arrays and a JSON value. ResourceError, with `advice`: disk full."""
    parts = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    listed = [(name, values.dtype.str, values.shape, _checksum(values)) for name, values in parts.items()]
    header = json.dumps({"arrays": listed, "note": note}).encode()
    with written_whole(path, advice) as file:
        file.write(hashlib.sha256(header).digest() + len(header).to_bytes(8, "little") + header)
        for values in parts.values():
            file.write(bytes_of(values))


def read_note(path: Path) -> Any:
    """Read the JSON value alone; header and length are checked, the arrays are not read.

    DamagedFileError: they differ from what was written. OSError: the file is missing or cannot be read.
    """
    with _opened(path) as (_, header):
        return header.note


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """Read all arrays by name and the JSON value, each checked against its sha256.

    DamagedFileError: one differs from what was written. OSError: the file is missing or cannot be read.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with _opened(path) as (descriptor, header):
        offset = header.end
        for name, dtype, shape, checksum in header.arrays:
            arrays[name] = values = np.empty(shape, np.dtype(dtype))
            read_at(descriptor, bytes_of(values), offset)
            if _checksum(values) != checksum:
                raise DamagedFileError(f"{path}: array {name} differs from its sha256")
            offset += values.nbytes
    return arrays, header.note


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, _Header]]:
    """Open a file; yields its descriptor and its checked header."""
    descriptor = open_regular(path)
    try:
        yield descriptor, _header(descriptor, path)
    except EOFError as error:
        raise DamagedFileError(f"{path}: {error}") from None
    finally:
        os.close(descriptor)


def _header(descriptor: int, path: Path) -> _Header:
    size = os.fstat(descriptor).st_size
    start = read_up_to(descriptor, _START, 0)
    length = int.from_bytes(start[_CHECKSUM:], "little")
    content = read_up_to(descriptor, length, _START) if length < size else b""
    if hashlib.sha256(content).digest() != start[:_CHECKSUM]:
        raise DamagedFileError(f"{path}: the header differs from its sha256")
    raw = json.loads(content)
    header = _Header(raw["arrays"], raw["note"], _START + length)
    expected = header.end + sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape, _ in header.arrays)
    if size != expected:
        raise DamagedFileError(f"{path}: {size} bytes, expected {expected}")
    return header


def _checksum(values: NDArray[Any]) -> str:
    return hashlib.sha256(bytes_of(values)).hexdigest()
