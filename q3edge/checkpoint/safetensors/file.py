"""Reading one safetensors file: its header, checked strictly, and any row range of any tensor.

Format: the safetensors library's README, section Format. The files of a folder are in `q3edge.checkpoint.shards`, the
tensors that a model needs in `q3edge.checkpoint.tensor_folder`, writing in `writer`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import InputError, unreadable
from q3edge.storage.raw_bytes import bytes_of, read_at
from q3edge.storage.regular_files import open_regular

MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library
FLOAT_DTYPES: Final = ("BF16", "F16", "F32")
NUMPY_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {  # little-endian as in the file; BF16 and F8 as their bits
    "BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1"), "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype("u1"), "U32": np.dtype("<u4"),
}  # fmt: skip
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_MAX_DIMENSIONS = 32
_BLOCK = 1 << 18  # elements converted at a time: the block stays in the CPU's cache


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Entry of one tensor: dtype as named in the header, shape, offset in the file and size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """An open safetensors file. Reads go into fresh arrays with pread: mapped pages would count as resident memory.

    InputError at construction: anything in which the file differs from the format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open_regular(path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.entries = _read_header(self._file, path, self.size)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file; later reads fail."""
        self._file.close()

    def divide(self, name: str, parts: Mapping[str, tuple[int, ...]]) -> None:
        """Replace the entry of a tensor by those of its `parts`, name -> shape, that lie in it one after another."""
        entry = self.entries.pop(name)
        offset, size = entry.offset, entry.nbytes // math.prod(entry.shape)
        for part, shape in parts.items():
            self.entries[part] = TensorEntry(entry.dtype, shape, offset, math.prod(shape) * size)
            offset += math.prod(shape) * size

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """Read a range of rows (of the first dimension) in the stored dtype; BF16 and F8 as their bits.

        InputError: a dtype outside NUMPY_DTYPES, or a file that became shorter.
        """
        entry, dtype, first, shape = self._locate(name, rows)
        out = np.empty(shape, dtype)
        self._pread(name, out, entry.offset + first * dtype.itemsize)
        return out

    def read_float(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read a BF16, F16 or F32 tensor, or a range of its rows, as float32.

        InputError: another dtype, or NaN or infinite values (the tensor and how many of the values read).
        """
        entry, dtype, first, shape = self._locate(name, rows)
        if entry.dtype not in FLOAT_DTYPES:
            raise InputError(f"{self.path} ({name}): dtype {entry.dtype}; expected one of {', '.join(FLOAT_DTYPES)}")
        out = np.empty(shape, np.float32)
        flat, bits, not_finite = out.reshape(-1), np.empty(min(out.size, _BLOCK), dtype), 0
        for start in range(0, flat.size, _BLOCK):
            values = flat[start : start + _BLOCK]
            block = bits[: values.size]
            self._pread(name, block, entry.offset + (first + start) * dtype.itemsize)
            if entry.dtype == "BF16":
                np.left_shift(block, 16, out=values.view(np.uint32), dtype=np.uint32)
            else:
                values[:] = block
            not_finite += values.size - int(np.count_nonzero(np.isfinite(values)))
        if not_finite:
            raise InputError(
                f"{self.path} ({name}): {not_finite} of {out.size} values are NaN or infinite; "
                "the checkpoint is damaged, download it again"
            )
        return out

    def _locate(self, name: str, rows: slice | None) -> tuple[TensorEntry, np.dtype[Any], int, tuple[int, ...]]:
        """Locate a range of rows: (entry, numpy dtype, index of the first element, shape)."""
        entry = self.entries[name]
        if entry.dtype not in NUMPY_DTYPES:
            raise InputError(f"{self.path} ({name}): dtype {entry.dtype}; supported: {', '.join(NUMPY_DTYPES)}")
        first, shape = 0, entry.shape
        if rows is not None:
            part = row_range(rows, shape[0])
            first, shape = part.start * math.prod(shape[1:]), (part.stop - part.start, *shape[1:])
        return entry, NUMPY_DTYPES[entry.dtype], first, shape

    def _pread(self, name: str, out: NDArray[Any], offset: int) -> None:
        try:
            read_at(self._file.fileno(), bytes_of(out), offset)
        except OSError as error:
            raise unreadable(f"{self.path} ({name}): cannot be read ({error.strerror})", error) from None
        except EOFError:
            raise InputError(f"{self.path} ({name}): the file became shorter while it was read") from None


def row_range(rows: slice | None, height: int) -> slice:
    """Normalize `rows` of `height` rows (None: all) to a slice with 0 <= start <= stop. ValueError: a step not 1."""
    start, stop, step = (rows or slice(None)).indices(height)
    if step != 1:
        raise ValueError(f"rows {rows}: expected step 1")
    return slice(start, max(start, stop))


def _open_regular(path: Path) -> BinaryIO:
    try:
        return open(open_regular(path), "rb", buffering=0)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; download the checkpoint again") from None
    except OSError as error:
        raise unreadable(f"{path}: cannot be read ({error.strerror}); expected a safetensors file", error) from None


def _read_header(file: BinaryIO, path: Path, size: int) -> dict[str, TensorEntry]:
    length = _header_length(file.read(512), path, size)
    file.seek(8)
    text = file.read(length)
    if not text.startswith(b"{"):
        raise InputError(f"{path}: not a safetensors file (the header is not a JSON object); download it again")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{path}: the header has the key {twice!r} twice; refused")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        json.dumps(header, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the header is not valid JSON ({error}); download the file again") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{path}: __metadata__ in the header: expected an object of strings")
    data_start = 8 + length
    entries = {name: _read_entry(raw, data_start, f"{path} ({name})") for name, raw in header.items()}
    _check_layout(entries, path, data_start, size)
    return entries


def _header_length(head: bytes, path: Path, size: int) -> int:
    if size == 0:
        raise InputError(f"{path}: empty file; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a Git-LFS pointer, not the weights; run `git lfs pull` in the folder")
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{path}: an HTML page, not the weights; the download went wrong, repeat it")
    if size < 8:
        raise InputError(f"{path}: truncated, expected at least 8 bytes, found {size}; download it again")
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise InputError(
            f"{path}: header length {length} bytes, expected at most {MAX_HEADER_BYTES}; not a safetensors file"
        )
    if length > size - 8:
        raise InputError(
            f"{path}: truncated or not a safetensors file, the header alone needs {8 + length} bytes, "
            f"found {size}; download it again"
        )
    return length


def _read_entry(raw: object, data_start: int, where: str) -> TensorEntry:
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where}: header entry {_short(raw)}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise InputError(f"{where}: dtype {_short(dtype)}: not a dtype of safetensors")
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise InputError(f"{where}: shape {_short(shape)}: expected a list of non-negative integers")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{where}: data_offsets {_short(offsets)}: expected two increasing non-negative integers")
    begin, end = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if bits != 8 * (end - begin):
        raise InputError(
            f"{where}: shape {_short(shape)} x {dtype} needs {-(-bits // 8)} bytes, data_offsets give {end - begin}"
        )
    return TensorEntry(dtype, tuple(shape), data_start + begin, end - begin)


def _check_layout(entries: Mapping[str, TensorEntry], path: Path, data_start: int, size: int) -> None:
    """Check that the tensors follow each other without overlap or hole and end where the file ends."""
    expected = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != expected:
            what = "overlaps the tensor before it" if entry.offset < expected else "leaves a hole before it"
            found, wanted = entry.offset - data_start, expected - data_start
            raise InputError(f"{path} ({name}): {what}, data starts at {found}, expected {wanted}; refused")
        expected += entry.nbytes
    if size < expected:
        raise InputError(f"{path}: truncated, expected {expected} bytes, found {size}; download it again")
    if size > expected:
        raise InputError(f"{path}: {size - expected} bytes after the last tensor; expected {expected} bytes in all")


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
