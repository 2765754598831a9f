"""`Shards`: the weight files of a model folder, and the file of every tensor.

Finds the files (one, or the index and its shards), checks the index and computes the folder's digest. What a file holds
is its kind's affair: `q3edge.checkpoint.safetensors` or `q3edge.checkpoint.pickled`.
The tensors that a model needs are checked in `q3edge.checkpoint.tensor_folder`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact import file_record
from q3edge.checkpoint.safetensors.file import SafetensorsFile
from q3edge.checkpoint.tensor_files import Entry
from q3edge.errors import InputError
from q3edge.storage.digests import json_digest
from q3edge.storage.json_files import read_json_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_LISTED = 10


class WeightFile(Protocol):
    """An open file of tensors: those of `entries`, read as `TensorFiles` describes it."""

    path: Path
    size: int

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Entries by stored name."""

    def divide(self, name: str, parts: Mapping[str, tuple[int, ...]]) -> None:
        """Replace a tensor by its `parts`, name -> shape, that lie in it one after another."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """Read a range of rows in the stored dtype; BF16 as its bits, uint16."""

    def read_float(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read a float tensor, or a range of its rows, as float32; InputError for NaN or infinity."""

    def close(self) -> None:
        """Close the file; later reads fail."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """Kind of weight files: the name of a single one and of an index of several, their suffix, how one is opened."""

    label: str
    single: str
    index: str
    suffix: str
    open: Callable[[Path], WeightFile]


SAFETENSORS = FileKind("safetensors", SINGLE_FILE, INDEX_FILE, ".safetensors", SafetensorsFile)


class Shards:
    """All tensors of a folder, in any of its files. Only headers are read at construction.

    entries: stored name -> dtype, shape and place. absent: names of the index that no file has; the reader of the model
    decides whether they matter.
    """

    def __init__(self, folder: Path, kind: FileKind = SAFETENSORS) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._holder: dict[str, WeightFile] = {}
        self._stack = ExitStack()
        try:
            weight_map = _weight_map(folder, kind)
            for shard in sorted(set(weight_map.values())) if weight_map else [kind.single]:
                self._add(kind.open(folder / shard))
            _check_index(folder / kind.index, weight_map, self._holder)
            self.absent = tuple(name for name in weight_map if name not in self._holder)
        except BaseException:
            self.close()
            raise

    def _add(self, file: WeightFile) -> None:
        self._stack.callback(file.close)
        for name, entry in file.entries.items():
            if other := self._holder.get(name):
                raise InputError(f"{file.path} ({name}): also in {other.path.name}; expected each tensor once")
            self._holder[name], self.entries[name] = file, entry

    def close(self) -> None:
        """Close every file."""
        self._stack.close()

    def divide(self, name: str, parts: Mapping[str, tuple[int, ...]]) -> None:
        """Replace a tensor by its `parts`, name -> shape, that lie in it one after another."""
        file = self._holder.pop(name)
        file.divide(name, parts)
        del self.entries[name]
        for part in parts:
            self._holder[part], self.entries[part] = file, file.entries[part]

    def path_of(self, name: str) -> Path:
        """Path of the file that holds a tensor."""
        return self._holder[name].path

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """Read a range of rows (of the first dimension) in the stored dtype; BF16 and F8 as their bits."""
        return self._holder[name].read(name, rows)

    def read_float(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read a tensor, or a range of its rows, as float32; InputError for NaN or infinity."""
        return self._holder[name].read_float(name, rows)

    @property
    def stored_bytes(self) -> int:
        """Total size of the weight files."""
        return sum(file.size for file in self._files)

    def digest(self) -> str:
        """Digest that identifies the model: hex sha256 over those of config.json and every weight file, by name."""
        paths = [self.folder / CONFIG_FILE, *(file.path for file in self._files)]
        with ThreadPoolExecutor(max_workers=2) as pool:
            hashes = pool.map(lambda path: file_record(path).sha256, paths)
            record = {path.name: sha256 for path, sha256 in zip(paths, hashes)}
        return json_digest(record)

    @property
    def _files(self) -> list[WeightFile]:
        return sorted(set(self._holder.values()), key=lambda file: file.path.name)


def first_names(names: Iterable[str]) -> str:
    """Format names for errors: 'a, b, c'; of a long list the first ten and how many more."""
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more


def _weight_map(folder: Path, kind: FileKind) -> dict[str, str]:
    """Read the index: tensor -> shard file; empty if the folder has one file."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not found or not a folder; expected a model folder")
    if (folder / kind.single).exists():
        return {}
    if not (folder / kind.index).exists():
        raise InputError(
            f"{folder}: no {kind.single} and no {kind.index}; expected a model folder with {kind.label} weights"
        )
    index = folder / kind.index
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: weight_map: expected an object, tensor name -> file name")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(kind.suffix) or _leaves_folder(shard):
            raise InputError(f"{index} ({name}): file {shard!r}: expected a plain *{kind.suffix} name; refused")
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if not os.path.exists(folder / shard)]:  # False for no name too
        raise InputError(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing: {first_names(missing)}; download them"
        )
    return weight_map


def _leaves_folder(shard: str) -> bool:
    return any(character in shard for character in "/\\:\0")


def _check_index(index: Path, weight_map: Mapping[str, str], holder: Mapping[str, WeightFile]) -> None:
    wrong = [name for name, shard in weight_map.items() if name in holder and holder[name].path.name != shard]
    if wrong:
        raise InputError(
            f"{index}: {len(wrong)} tensors are not in the shard it names: {first_names(wrong)}; "
            "download the checkpoint again"
        )
