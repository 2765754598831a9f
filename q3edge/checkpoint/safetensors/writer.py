"""Writing one safetensors file as a stream: the header first, then row blocks of any tensor in any order.

The size of every tensor is known beforehand, so no more than one block is ever held in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.checkpoint.safetensors.file import NUMPY_DTYPES
from q3edge.storage.raw_bytes import bytes_of
from q3edge.storage.streamed_file import StreamedFile


class SafetensorsWriter(StreamedFile):
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
        parts: dict[str, tuple[int, int]] = {}
        end = 0
        for name in sorted(entries, key=lambda name: -self._dtypes[name].itemsize):
            begin, end = end, end + math.prod(self._shapes[name]) * self._dtypes[name].itemsize
            parts[name] = (begin, end)
            header[name] = {"dtype": entries[name][0], "shape": list(self._shapes[name]), "data_offsets": [begin, end]}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        super().__init__(path, len(text).to_bytes(8, "little") + text, parts)

    def append(self, name: str, block: NDArray[Any]) -> None:
        """Write the next rows of a tensor, in its stored dtype (BF16 as uint16 bits).

        ValueError: another dtype or row shape, or more rows than announced.
        """
        if block.dtype != self._dtypes[name] or block.shape[1:] != self._shapes[name][1:]:
            expected = f"{self._dtypes[name]} {self._shapes[name]}"
            raise ValueError(f"{name}: block {block.dtype} {block.shape} does not fit {expected}")
        self.write(name, bytes_of(np.ascontiguousarray(block)))


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 values to the nearest bfloat16 (ties to even); returns its bits, uint16."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)
