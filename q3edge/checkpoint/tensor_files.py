"""`TensorFiles`: interface of the files of one model: named tensors, read by rows. `safetensors.shards` is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Expected = tuple[tuple[str, ...], tuple[int, ...]]  # dtypes allowed, shape


class Entry(Protocol):
    """Entry of one tensor in a file."""

    @property
    def dtype(self) -> str:
        """Stored dtype, as safetensors names it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""


class TensorFiles(Protocol):
    """Tensors of a model in any of its files, which stay open until `close`; only headers are read at construction."""

    @property
    def folder(self) -> Path:
        """Folder of the files."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Entries by stored name."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Names that an index has and no file."""

    def divide(self, name: str, parts: Mapping[str, tuple[int, ...]]) -> None:
        """Replace a tensor by its `parts`, name -> shape, that lie in it one after another."""

    def path_of(self, name: str) -> Path:
        """Path of the file that holds a tensor."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """Read a range of rows (of the first dimension) in the stored dtype; BF16 and F8 as their bits."""

    def read_float(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read a float tensor, or a range of its rows, as float32; InputError for NaN or infinity."""

    @property
    def stored_bytes(self) -> int:
        """Total size of the weight files."""

    def digest(self) -> str:
        """Digest that identifies configuration and weights, hex sha256; reads all of them."""

    def close(self) -> None:
        """Close the files; later reads fail."""
