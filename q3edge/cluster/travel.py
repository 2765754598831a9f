"""How work and its results travel between processes: small things pickled, large arrays beside them.

Closures travel as cloudpickle pickles them. Large tensors and arrays are left out and numbered, so that they can be
sent once and shared; values of rows are left out too, and found again where the work runs.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.cluster.place import RowValues

_LARGE = 1 << 18  # bytes
_DTYPES = {torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8}  # that numpy has as well
Large = torch.Tensor | NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """An object without its large arrays and values of rows, which follow in their order of appearance."""

    pickled: bytes
    large: list[Large]
    rows: list[RowValues]


def pack(value: object) -> Packed:
    """Pack any object that cloudpickle takes."""
    buffer, large, rows = io.BytesIO(), list[Large](), list[RowValues]()
    _Packer(buffer, large, rows).dump(value)
    return Packed(buffer.getvalue(), large, rows)


def unpack(pickled: bytes, large: Sequence[NDArray[Any]], rows: Callable[[int], RowValues] | None = None) -> Any:
    """Unpack what `pack` made, with the large arrays in their order, and values of rows by their number."""
    return _Unpacker(io.BytesIO(pickled), large, rows).load()


def as_array(value: Large) -> NDArray[Any]:
    """Give a tensor or an array as a contiguous array, which shares its memory if it can."""
    return np.ascontiguousarray(value.detach().numpy() if isinstance(value, torch.Tensor) else value)


class _Packer(cloudpickle.Pickler):  # type: ignore[misc] # it has no types
    def __init__(self, file: io.BytesIO, large: list[Large], rows: list[RowValues]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._large, self._rows = large, rows
        self._numbers: dict[int, int] = {}  # of large arrays, by id; the pickler keeps what it has met

    def persistent_id(self, value: object) -> tuple[str, Any] | None:
        """Number what is left out."""
        if isinstance(value, RowValues):
            return "rows", self._number(value, self._rows)
        if isinstance(value, torch.Tensor) and value.nbytes >= _LARGE and value.dtype in _DTYPES:
            if not value.any():  # such as the half of a block's moments that it has no tokens for
                return "zeros", (tuple(value.shape), value.dtype)
            return "tensor", self._number(value, self._large)
        if isinstance(value, np.ndarray) and value.nbytes >= _LARGE and value.dtype != object:
            return "array", self._number(value, self._large)
        return None

    def _number(self, value: Any, found: list[Any]) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(found)
            found.append(value)
        return self._numbers[id(value)]


class _Unpacker(pickle.Unpickler):
    def __init__(
        self, file: io.BytesIO, large: Sequence[NDArray[Any]], rows: Callable[[int], RowValues] | None
    ) -> None:
        super().__init__(file)
        self._large, self._rows = large, rows

    def persistent_load(self, pid: tuple[str, Any]) -> object:
        """Find what was left out."""
        kind, number = pid
        if kind == "zeros":
            return torch.zeros(number[0], dtype=number[1])
        if kind == "rows":
            assert self._rows is not None
            return self._rows(number)
        return torch.from_numpy(self._large[number]) if kind == "tensor" else self._large[number]
