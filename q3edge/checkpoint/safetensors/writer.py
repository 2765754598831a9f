"""Writing one safetensors file as a stream: the header first, then row blocks of any tensor in any order.

The size of every tensor is known beforehand, so no more than one block is ever held in memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.checkpoint.safetensors.file import NUMPY_DTYPES
from q3edge.storage.raw_bytes import bytes_of, write_at
from q3edge.storage.regular_files import BINARY


class SafetensorsWriter:
    """Writer of a file with the given tensors, name -> (dtype as in the header, shape); filled by `append`.

    Tensors are laid out widest element first, otherwise in the order given: each is then aligned to its element, as in
    files of the safetensors library. OSError passes through (a full disk is reported by the caller).
    """

    def __init__(
        self, path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
    ) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self._dtypes: dict[str, np.dtype[Any]] = {name: NUMPY_DTYPES[dtype] for name, (dtype, _) in entries.items()}
        self._shapes = {name: shape for name, (_, shape) in entries.items()}
        self._cursor, self._end = dict[str, int](), dict[str, int]()
        end = 0
        for name in sorted(entries, key=lambda name: -self._dtypes[name].itemsize):
            begin, end = end, end + math.prod(self._shapes[name]) * self._dtypes[name].itemsize
            self._cursor[name], self._end[name] = begin, end
            header[name] = {"dtype": entries[name][0], "shape": list(self._shapes[name]), "data_offsets": [begin, end]}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.path = path
        self._data_start = 8 + len(text)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        write_at(self._fd, len(text).to_bytes(8, "little") + text, 0)

    def append(self, name: str, block: NDArray[Any]) -> None:
        """Write the next rows of a tensor, in its stored dtype (BF16 as uint16 bits).

        ValueError: another dtype or row shape, or more rows than announced.
        """
        if block.dtype != self._dtypes[name] or block.shape[1:] != self._shapes[name][1:]:
            expected = f"{self._dtypes[name]} {self._shapes[name]}"
            raise ValueError(f"{name}: block {block.dtype} {block.shape} does not fit {expected}")
        if self._cursor[name] + block.nbytes > self._end[name]:
            raise ValueError(f"{name}: more rows than its shape {self._shapes[name]}")
        write_at(self._fd, bytes_of(np.ascontiguousarray(block)), self._data_start + self._cursor[name])
        self._cursor[name] += block.nbytes

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
            self._close_fd()  # the error under way matters more than the unfinished tensors

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 values to the nearest bfloat16 (ties to even); returns its bits, uint16."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)
