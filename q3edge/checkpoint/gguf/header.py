"""Reading the header of a GGUF file: metadata and the places of its tensors, each size checked before it is read."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from q3edge.architecture.fields import shown
from q3edge.checkpoint.gguf.tensor_types import BY_NUMBER, OTHERS, TYPES
from q3edge.errors import InputError
from q3edge.storage.raw_bytes import read_up_to

MAX_HEADER_BYTES: Final = 200_000_000  # a vocabulary of a quarter million tokens has some 20
ALIGNMENT_KEY: Final = "general.alignment"
DEFAULT_ALIGNMENT: Final = 32
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_TENSORS, _MAX_KEYS, _MAX_NAME, _MAX_DIMENSIONS = 1 << 20, 1 << 16, 1 << 16, 4
_MAX_ALIGNMENT = 1 << 20
_PIECE = 1 << 20  # bytes that are read at a time
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_STRING_BYTES = 8  # of the shortest string: its length


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """Entry of one tensor: name of its type, shape with the rows first, offset in the file and size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a file: metadata by key (numbers, booleans, texts and lists of these), and tensors by name."""

    metadata: Mapping[str, Any]
    entries: dict[str, GgufEntry]


def read_header(descriptor: int, path: Path, size: int) -> Header:
    """Read the header of a file of `size` bytes; InputError: anything in which it differs from the format."""
    cursor = _Cursor(descriptor, path, size)
    tensors, keys = _counts(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.text("a key", _MAX_NAME)
        if key in metadata:
            raise InputError(f"{path}: the metadata has the key {key!r} twice; refused")
        metadata[key] = cursor.value(key)
    stored = [_read_tensor(cursor, number) for number in range(tensors)]
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise InputError(f"{path}: {ALIGNMENT_KEY} = {shown(alignment)}: expected a power of two from 8 on")
    start = -(-cursor.position // alignment) * alignment
    return Header(metadata, _placed(stored, path, start, alignment, size))


class _Cursor:
    """Place in the header. Nothing is read, and no memory taken, for what would lie behind the file's end."""

    def __init__(self, descriptor: int, path: Path, size: int) -> None:
        self._descriptor, self.path, self.size = descriptor, path, size
        self._buffer = bytearray()
        self.position = 0

    def take(self, count: int, what: str) -> memoryview:
        """Take the next bytes."""
        end = self.position + count
        if end > self.size:
            raise InputError(
                f"{self.path}: truncated or damaged, {what} needs {count} bytes at {self.position}, the file has "
                f"{self.size}; download it again"
            )
        if end > MAX_HEADER_BYTES:
            raise InputError(f"{self.path}: header of over {MAX_HEADER_BYTES} bytes; not a model's")
        if end > len(self._buffer):
            length = max(end - len(self._buffer), _PIECE)
            self._buffer = self._buffer + read_up_to(self._descriptor, length, len(self._buffer))
            if end > len(self._buffer):
                raise InputError(f"{self.path}: the file became shorter while it was read")
        found = memoryview(self._buffer)[self.position : end]
        self.position = end
        return found

    def number(self, kind: str, what: str) -> int:
        """Read an integer: "<I" or "<Q"."""
        (value,) = struct.unpack(kind, self.take(struct.calcsize(kind), what))
        return int(value)

    def text(self, what: str, most: int = MAX_HEADER_BYTES) -> str:
        """Read a text of at most `most` bytes."""
        length = self.number("<Q", what)
        if length > most:
            raise InputError(f"{self.path}: {what} of {length} bytes; the file is damaged, download it again")
        try:
            return bytes(self.take(length, what)).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {what} is not UTF-8; the file is damaged, download it again") from None

    def value(self, key: str) -> Any:
        """Read the type and value of a key."""
        what = f"the value of {key!r}"
        kind = self.number("<I", what)
        if kind != _ARRAY:
            return self._one(kind, what)
        kind, count = self.number("<I", what), self.number("<Q", what)
        if kind == _STRING:
            self._check_left(count * _STRING_BYTES, what)
            return self._texts(count, what)
        dtype = np.dtype(_NUMBERS.get(kind, "u1"))
        if kind not in _NUMBERS and kind != _BOOL:
            raise InputError(f"{self.path}: {what} is a list of type {kind}; expected numbers, booleans or texts")
        self._check_left(count * dtype.itemsize, what)
        values = np.frombuffer(self.take(count * dtype.itemsize, what), dtype)
        return (values != 0).tolist() if kind == _BOOL else values.tolist()

    def _one(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.text(what)
        if kind == _BOOL:
            return self.take(1, what)[0] != 0
        if kind not in _NUMBERS:
            raise InputError(f"{self.path}: {what} has the unknown type {kind}; the file is damaged or of a newer kind")
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()

    def _texts(self, count: int, what: str) -> list[str]:
        return [self.text(what) for _ in range(count)]

    def _check_left(self, needed: int, what: str) -> None:
        if needed > self.size - self.position:
            raise InputError(
                f"{self.path}: truncated or damaged, {what} needs at least {needed} bytes at {self.position}, the file "
                f"has {self.size}; download it again"
            )


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """Numbers of tensors and keys, behind magic and version."""
    path = cursor.path
    if not cursor.size:
        raise InputError(f"{path}: empty file; download it again")
    magic = bytes(cursor.take(min(4, cursor.size), "the magic number"))
    if magic != _MAGIC:
        pointer = magic == b"vers"
        raise InputError(
            f"{path}: a Git-LFS pointer, not the weights; run `git lfs pull` in the folder"
            if pointer
            else f"{path}: not a GGUF file (it begins with {magic!r}); download it again"
        )
    version = cursor.number("<I", "the version")
    if version not in _VERSIONS:
        big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
        found = "big-endian" if big_endian else f"version {version}"
        raise InputError(f"{path}: GGUF, {found}; expected version 2 or 3, little-endian: convert the model anew")
    tensors, keys = cursor.number("<Q", "the number of tensors"), cursor.number("<Q", "the number of keys")
    if tensors > _MAX_TENSORS or keys > _MAX_KEYS:
        raise InputError(f"{path}: {tensors} tensors and {keys} keys; the file is damaged, download it again")
    return tensors, keys


@dataclass(frozen=True, slots=True)
class _Stored:
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def _read_tensor(cursor: _Cursor, number: int) -> _Stored:
    name = cursor.text(f"the name of tensor {number}", _MAX_NAME)
    where = f"{cursor.path} ({name})"
    dimensions = cursor.number("<I", f"tensor {name!r}")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise InputError(f"{where}: {dimensions} dimensions; expected 1 to {_MAX_DIMENSIONS}")
    shape = tuple(cursor.number("<Q", f"tensor {name!r}") for _ in range(dimensions))[::-1]
    kind, offset = cursor.number("<I", f"tensor {name!r}"), cursor.number("<Q", f"tensor {name!r}")
    if kind not in BY_NUMBER:
        found = OTHERS.get(kind, f"number {kind}")
        raise InputError(f"{where}: type {found}, which q3edge does not read; expected one of {', '.join(TYPES)}")
    known = BY_NUMBER[kind]
    if not all(shape) or math.prod(shape) >= 2**63:
        raise InputError(f"{where}: shape {list(shape)}; the file is damaged, download it again")
    if shape[-1] % known.values:
        raise InputError(f"{where}: rows of {shape[-1]} values, {known.name} has blocks of {known.values}")
    return _Stored(name, known.name, shape, offset)


def _placed(stored: list[_Stored], path: Path, start: int, alignment: int, size: int) -> dict[str, GgufEntry]:
    """Entries at their places: one after another, each at the next multiple of the alignment, up to the file's end."""
    entries: dict[str, GgufEntry] = {}
    expected = end = 0
    for tensor in stored:
        if tensor.name in entries:
            raise InputError(f"{path} ({tensor.name}): there twice; refused")
        if tensor.offset != expected:
            raise InputError(
                f"{path} ({tensor.name}): data at {tensor.offset}, expected {expected}, behind the tensor before it; "
                "refused"
            )
        nbytes = math.prod(tensor.shape[:-1]) * TYPES[tensor.dtype].row_bytes(tensor.shape[-1])
        entries[tensor.name] = GgufEntry(tensor.dtype, tensor.shape, start + tensor.offset, nbytes)
        end = start + tensor.offset + nbytes
        expected = -(-(tensor.offset + nbytes) // alignment) * alignment
    if size < end:
        raise InputError(f"{path}: truncated, expected {end} bytes, found {size}; download it again")
    if size > start + expected:
        raise InputError(f"{path}: {size - start - expected} bytes after the last tensor; refused")
    return entries
