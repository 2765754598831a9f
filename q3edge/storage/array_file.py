"""Files of arrays and a JSON note, each part with its sha256: read whole in one pass, the note alone, or by array.

Layout: 8 bytes that say what it is, sha256 of the header, its length as 8 bytes little-endian, the header (JSON: name,
dtype, shape and sha256 of each array, and the note), then the arrays' bytes one after the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from q3edge.storage.raw_bytes import bytes_of, read_at, read_up_to
from q3edge.storage.regular_files import open_regular
from q3edge.storage.whole_files import ADVICE, written_whole

_MAGIC = b"q3arrays"
_LENGTH = len(_MAGIC) + 32  # place of the header's length, behind its sha256
_START = _LENGTH + 8  # of the header
_LONGEST_HEADER = 1 << 24
_MOST_AXES = 32
_BLOCK = 1 << 22  # bytes hashed at a time
_NUMBERS = re.compile(r"[<>|][biuf][1248]")  # dtypes of what is written: nothing else becomes an array


class DamagedFileError(ValueError):
    """The file differs from what was written."""


class ArrayEntry(NamedTuple):
    """Name, numpy's name of the type, shape and hex sha256 of an array in a file, and where its bytes begin."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    offset: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class ArrayFile:
    """An open file: the entries of its arrays by name, whose bytes lie inside it, and its note."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self._path = descriptor, path
        self._state = _state(descriptor)
        self.entries, self.note = _header(descriptor, path)

    def verify(self, workers: int = 1) -> None:
        """Check every array against its sha256, `workers` at a time, with 4 MB of memory each.

        DamagedFileError: one differs from what was written.
        """
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(self._verify, self.entries.values()):
                pass

    def read_into(self, name: str, array: NDArray[Any]) -> None:
        """Fill an array of the entry's type and shape, contiguous or in contiguous parts, without a check of its bytes.

        ValueError: another type or shape. DamagedFileError: the file ends before.
        """
        entry = self.entries[name]
        if (array.dtype.str, array.shape) != (entry.dtype, entry.shape):
            raise ValueError(f"{name} is {entry.dtype} {entry.shape}, not {array.dtype.str} {array.shape}")
        offset = entry.offset
        with _ends(self._path):
            for part in _contiguous(array):
                read_at(self._descriptor, bytes_of(part), offset)
                offset += part.nbytes

    def read(self, name: str) -> NDArray[Any]:
        """Read an array, checked against its sha256. DamagedFileError: it differs from what was written."""
        entry = self.entries[name]
        values: NDArray[Any] = np.empty(entry.shape, np.dtype(entry.dtype))
        self.read_into(name, values)
        self._compare(entry, _checksum(values))
        return values

    def check_unchanged(self) -> None:
        """Raise DamagedFileError if the file was written to since it was opened."""
        if _state(self._descriptor) != self._state:
            raise DamagedFileError(f"{self._path}: changed while it was read")

    def _verify(self, entry: ArrayEntry) -> None:
        found, block, done = hashlib.sha256(), bytearray(min(_BLOCK, entry.size)), 0
        with _ends(self._path):
            while done < entry.size:
                part = memoryview(block)[: entry.size - done]
                read_at(self._descriptor, part, entry.offset + done)
                found.update(part)
                done += len(part)
        self._compare(entry, found.hexdigest())

    def _compare(self, entry: ArrayEntry, found: str) -> None:
        if found != entry.sha256:
            raise DamagedFileError(f"{self._path}: array {entry.name} differs from its sha256")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], note: object = None, advice: str = ADVICE) -> None:
    """Replace the file atomically by named arrays of numbers and a JSON value. ResourceError, with `advice`: disk full.

    Of arrays that are not contiguous one at a time is copied.
    """
    listed = []
    for name, values in arrays.items():
        part = np.asarray(values, order="C")
        listed.append((name, part.dtype.str, part.shape, _checksum(part)))
    header = json.dumps({"arrays": listed, "note": note}).encode()
    with written_whole(path, advice) as file:
        file.write(_MAGIC + hashlib.sha256(header).digest() + len(header).to_bytes(8, "little") + header)
        for values in arrays.values():
            file.write(bytes_of(np.asarray(values, order="C")))


def read_note(path: Path) -> Any:
    """Read the JSON value alone; header and length are checked, the arrays are not read.

    DamagedFileError: they differ from what was written. OSError: the file is missing or cannot be read.
    """
    with open_arrays(path) as file:
        return file.note


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """Read all arrays by name and the JSON value, each checked against its sha256.

    DamagedFileError: one differs from what was written. OSError: the file is missing or cannot be read.
    """
    with open_arrays(path) as file:
        return {name: file.read(name) for name in file.entries}, file.note


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """Open a file, whose header and length are checked; errors are those of `read_note`."""
    descriptor = open_regular(path)
    try:
        yield ArrayFile(descriptor, path)
    finally:
        os.close(descriptor)


def _header(descriptor: int, path: Path) -> tuple[dict[str, ArrayEntry], Any]:
    """Entries and note of a file, which has every byte that they speak of and no other."""
    size = os.fstat(descriptor).st_size
    start = read_up_to(descriptor, _START, 0)
    if not start.startswith(_MAGIC):
        raise DamagedFileError(f"{path}: no file of arrays that q3edge wrote")
    length = int.from_bytes(start[_LENGTH:], "little")
    content = read_up_to(descriptor, length, _START) if length <= min(size, _LONGEST_HEADER) else b""
    if hashlib.sha256(content).digest() != start[len(_MAGIC) : _LENGTH]:
        raise DamagedFileError(f"{path}: the header differs from its sha256")
    try:
        raw = json.loads(content)
        entries, end = _entries(raw["arrays"], _START + length)
        note = raw["note"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DamagedFileError(f"{path}: the header is not one that q3edge writes") from None
    if size != end:
        raise DamagedFileError(f"{path}: {size} bytes, expected {end}")
    return entries, note


def _entries(listed: list[tuple[str, str, list[int], str]], offset: int) -> tuple[dict[str, ArrayEntry], int]:
    """Entries of a header, whose arrays begin at `offset`, and their end; ValueError or TypeError: damage."""
    entries: dict[str, ArrayEntry] = {}
    for name, dtype, shape, sha256 in listed:
        sizes = len(shape) <= _MOST_AXES and all(type(n) is int and 0 <= n < 2**63 for n in shape)
        if not isinstance(name, str) or name in entries or not _NUMBERS.fullmatch(dtype) or not sizes:
            raise ValueError(name)
        entries[name] = ArrayEntry(name, dtype, tuple(shape), sha256, offset)
        offset += entries[name].size
    return entries, offset


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _contiguous(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The largest contiguous parts of an array, in the order of its bytes in a file."""
    if array.flags.c_contiguous:
        yield array
    else:
        for index in range(len(array)):
            yield from _contiguous(array[index, ...])  # of a single number too this is a view


@contextmanager
def _ends(path: Path) -> Iterator[None]:
    """Turn the end of a file that became shorter into a DamagedFileError."""
    try:
        yield
    except EOFError as error:
        raise DamagedFileError(f"{path}: {error}") from None


def _checksum(values: NDArray[Any]) -> str:
    return hashlib.sha256(bytes_of(values)).hexdigest()
