"""`GgufFiles`: the tensors of a GGUF model, in one file or in those it was split into, by transformers' names."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import file_record
from q3edge.checkpoint.gguf.header import GgufEntry, Header, read_header
from q3edge.checkpoint.gguf.tensor_names import model_name, parts_of
from q3edge.checkpoint.gguf.tensor_types import FLOATS
from q3edge.checkpoint.safetensors.file import NUMPY_DTYPES, row_range
from q3edge.errors import InputError, unreadable
from q3edge.storage.digests import json_digest
from q3edge.storage.raw_bytes import bytes_of, read_at
from q3edge.storage.regular_files import open_regular

SUFFIX: Final = ".gguf"
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_SPLIT_COUNT = "split.count"
_MAX_SPLITS = 9999


class GgufFile:
    """An open GGUF file. Reads go into fresh arrays, as of a safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.header: Header = read_header(self._file.fileno(), path, self.size)
        except OSError as error:
            self._file.close()
            raise unreadable(f"{path}: cannot be read ({error.strerror})", error) from None
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file; later reads fail."""
        self._file.close()

    def read(self, name: str, entry: GgufEntry, rows: slice | None) -> NDArray[Any]:
        """Read rows of an entry: floats in the stored dtype (BF16 as its bits), blocks as uint8 [n, bytes of a row]."""
        part = row_range(rows, entry.shape[0])
        per_row = entry.nbytes // entry.shape[0]
        if entry.dtype in FLOATS:
            out = np.empty((part.stop - part.start, *entry.shape[1:]), NUMPY_DTYPES[entry.dtype])
        else:
            out = np.empty((part.stop - part.start, per_row), np.uint8)
        try:
            read_at(self._file.fileno(), bytes_of(out), entry.offset + part.start * per_row)
        except OSError as error:
            raise unreadable(f"{self.path} ({name}): cannot be read ({error.strerror})", error) from None
        except EOFError:
            raise InputError(f"{self.path} ({name}): the file became shorter while it was read") from None
        return out


class GgufFiles:
    """Tensors of a model by transformers' names (others by their own); only headers are read at construction.

    metadata: of the first file. `TensorFiles` in a format of its own.
    """

    absent: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.folder = path
        self.entries: dict[str, GgufEntry] = {}
        self._holder: dict[str, GgufFile] = {}
        self._own_names: dict[str, str] = {}
        self._files: list[GgufFile] = []
        self._stack = ExitStack()
        try:
            for part in _parts(path):
                self._add(GgufFile(part))
            self.metadata: Mapping[str, Any] = self._files[0].header.metadata
            count = self.metadata.get(_SPLIT_COUNT, 1)
            if count not in (0, len(self._files)):
                raise InputError(
                    f"{self._files[0].path}: {_SPLIT_COUNT} = {count!r}, found {len(self._files)} files by their "
                    "names; keep the names that they were split with"
                )
        except BaseException:
            self.close()
            raise

    def _add(self, file: GgufFile) -> None:
        self._stack.callback(file.close)
        self._files.append(file)
        for own, entry in file.header.entries.items():
            name = model_name(own)
            if other := self._holder.get(name):
                raise InputError(f"{file.path} ({own}): also in {other.path.name}; expected each tensor once")
            self._holder[name], self.entries[name], self._own_names[name] = file, entry, own

    def close(self) -> None:
        """Close every file."""
        self._stack.close()

    def divide(self, name: str, parts: Mapping[str, tuple[int, ...]]) -> None:
        """Replace a tensor by its `parts`, name -> shape, that lie in it one after another."""
        file, entry, own = self._holder.pop(name), self.entries.pop(name), self._own_names.pop(name)
        row_bytes = entry.nbytes // math.prod(entry.shape[:-1])
        offset = entry.offset
        for part, shape in parts.items():
            nbytes = math.prod(shape[:-1]) * row_bytes
            self.entries[part] = GgufEntry(entry.dtype, shape, offset, nbytes)
            self._holder[part], self._own_names[part] = file, own
            offset += nbytes

    def divide_experts(self) -> None:
        """Replace each tensor of a layer's experts, [E, N, K], by the matrices of each."""
        for name, entry in [*self.entries.items()]:
            if parts := parts_of(name, entry.shape):
                if twice := next((part for part in parts if part in self.entries), None):
                    raise InputError(f"{self.path_of(name)} ({self._own_names[name]}): also there as {twice}")
                self.divide(name, parts)

    def path_of(self, name: str) -> Path:
        """Path of the file that holds a tensor."""
        return self._holder[name].path

    def own_name(self, name: str) -> str:
        """Name of a tensor in the file."""
        return self._own_names[name]

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """Read rows of a tensor: floats in the stored dtype (BF16 as its bits), blocks as uint8 [n, bytes of a row]."""
        return self._holder[name].read(name, self.entries[name], rows)

    def read_float(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read a float tensor, or a range of its rows, as float32; InputError for NaN or infinity."""
        entry = self.entries[name]
        where = f"{self.path_of(name)} ({self.own_name(name)})"
        if entry.dtype not in FLOATS:
            raise InputError(f"{where}: type {entry.dtype}; expected one of {', '.join(FLOATS)}")
        stored = self.read(name, rows)
        if entry.dtype == "BF16":
            values = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            values = stored.astype(np.float32)
        if not_finite := values.size - int(np.count_nonzero(np.isfinite(values))):
            raise InputError(
                f"{where}: {not_finite} of {values.size} values are NaN or infinite; the file is damaged, download it "
                "again"
            )
        return values

    @property
    def stored_bytes(self) -> int:
        """Total size of the files."""
        return sum(file.size for file in self._files)

    def digest(self) -> str:
        """Digest that identifies configuration and weights: hex sha256 over those of every file, by name."""
        paths = [file.path for file in self._files]
        with ThreadPoolExecutor(max_workers=2) as pool:
            hashes = pool.map(lambda path: file_record(path).sha256, paths)
            record = {path.name: sha256 for path, sha256 in zip(paths, hashes)}
        return json_digest(record)


def gguf_files(folder: Path) -> list[Path]:
    """Find the GGUF files of a folder, by name."""
    return sorted(file for file in folder.glob("*") if file.suffix.lower() == SUFFIX)


def _parts(path: Path) -> list[Path]:
    """Files of the model at `path`: a file, with those that it was split into, or the only model of a folder."""
    if path.is_dir():
        found = gguf_files(path)
        models = {match["stem"] if (match := _SPLIT.fullmatch(file.name)) else file.name for file in found}
        if len(models) != 1:
            names = ", ".join(file.name for file in found[:10]) or "none"
            raise InputError(f"{path}: GGUF files of {len(models)} models ({names}); give the path of one file")
        path = found[0]
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= count <= _MAX_SPLITS:
        raise InputError(f"{path}: one of {count} files, by its name; expected 1 to {_MAX_SPLITS}")
    suffix = path.name[-len(SUFFIX) :]
    parts = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}{suffix}") for number in range(1, count + 1)]
    if missing := [part.name for part in parts if not os.path.exists(part)]:
        raise InputError(f"{path}: {len(missing)} of {count} files are missing, such as {missing[0]}; download them")
    return parts


def _open(path: Path) -> BinaryIO:
    try:
        return open(open_regular(path), "rb", buffering=0)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; download the model again") from None
    except OSError as error:
        raise unreadable(f"{path}: cannot be read ({error.strerror}); expected a GGUF file", error) from None
