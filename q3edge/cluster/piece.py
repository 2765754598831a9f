"""What a worker does: one piece of work at a time, on all its threads, with the values of its rows.

Workers import this module, and no scheduler's library is needed for it.
"""

from __future__ import annotations

import pickle
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.cluster.place import RowValues
from q3edge.cluster.travel import as_array, pack, unpack
from q3edge.errors import ResourceError
from q3edge.machine.cpu import has_fast_bfloat16, instruction_sets
from q3edge.machine.tool_versions import tool_versions
from q3edge.reference.parallel import torch_threads
from q3edge.storage.code_digest import code_digest
from q3edge.version import VERSION

_CODE = (
    "architecture", "artifact", "calibration", "checkpoint", "cluster", "evaluation", "exporters", "pipeline",
    "quantization", "reference", "runtime", "storage",
)  # fmt: skip
_PACKAGES = ("torch", "numpy", "onnxruntime", "tokenizers")


@cache
def own_kind() -> dict[str, str]:
    """What has to be alike in all processes that share one result: code, libraries, and how the CPU rounds."""
    products = [torch.backends.cpu.get_cpu_capability(), *instruction_sets()]
    return {
        "Python": "{}.{}".format(*sys.version_info),
        "q3edge": VERSION,
        **tool_versions(*_PACKAGES),
        "q3edge's code": code_digest(*_CODE)[:12],
        "CPU": f"{platform.machine()} with {' '.join(products)}",
        "bfloat16": "in hardware" if has_fast_bfloat16() else "not in hardware",
    }


def check_kind(where: str, found: dict[str, str], expected: dict[str, str]) -> None:
    """Raise ResourceError if a worker would compute other bytes than the process that asks; `where`: its address."""
    if differing := [name for name in expected if found.get(name) != expected[name]]:
        told = "; ".join(f"{name} is {found.get(name, 'missing')}, here {expected[name]}" for name in differing)
        raise ResourceError(
            f"worker {where}: {told}; results would not be the same: install the same there, on the same kind of CPU"
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of work in a form that travels; large arrays and values of rows come beside it.

    name: of the work, which pieces share. expected: `own_kind` of the process that asks. items: pickled. first, stop:
    the range of rows; given: which values of rows, by their numbers, exist already.
    """

    name: str
    work: bytes
    items: bytes
    expected: dict[str, str]
    first: int = 0
    stop: int = 0
    given: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """Results of a piece, packed, and the values of rows that it wrote, float32 [rows, S, K], by their numbers."""

    results: bytes
    large: list[NDArray[Any]]
    written: dict[int, NDArray[np.float32]]


@dataclass(slots=True)
class _Values:
    """Values of the rows of the present piece; first: its first row."""

    first: int = 0
    rows: int = 0
    found: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    written: dict[int, NDArray[np.float32]] = field(default_factory=dict)


_lock = Lock()  # a worker's piece takes all its threads
_work: tuple[str, Callable[[Sequence[Any]], Iterator[Any]]] | None = None  # the last, which pieces often share
_values = _Values()


class _HereRows(RowValues):
    """Values of the rows of the present piece."""

    stays = True

    def __init__(self, number: int) -> None:
        self._number = number

    def read(self, part: slice) -> torch.Tensor:
        """Read the values of a range of the piece's rows; EOFError if they were not written."""
        found = _values.written.get(self._number, _values.found.get(self._number))
        if found is None:
            raise EOFError("values of rows that were not written")
        return torch.from_numpy(found[part.start - _values.first : part.stop - _values.first].copy())

    def write(self, part: slice, values: torch.Tensor) -> None:
        """Store the values of a range of the piece's rows."""
        if self._number not in _values.written:
            with _write_lock:
                if self._number not in _values.written:
                    _values.written[self._number] = np.empty((_values.rows, *values.shape[1:]), np.float32)
        target = _values.written[self._number]
        target[part.start - _values.first : part.stop - _values.first] = values.numpy()


_write_lock = Lock()


def run_piece(piece: Piece, threads: int, where: str, *arrays: NDArray[Any]) -> Done:
    """Run one piece on so many threads. arrays: the given values of rows in their order, then the large arrays.

    ResourceError: this process would compute other bytes than the one that asks.
    """
    global _work, _values
    check_kind(where, own_kind(), piece.expected)
    with _lock, torch_threads(threads):
        try:
            if _work is None or _work[0] != piece.name:
                _work = None  # its arrays go before the next ones come
                _work = piece.name, unpack(piece.work, arrays[len(piece.given) :], _HereRows)
            _values = _Values(piece.first, piece.stop - piece.first, dict(zip(piece.given, arrays)))
            results = pack([*_work[1](pickle.loads(piece.items))])
            return Done(results.pickled, [as_array(found) for found in results.large], _values.written)
        finally:
            _values = _Values()
