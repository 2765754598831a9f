"""The file of weights beside an ONNX model: tensors are streamed into it block by block, or only laid out.

Assigns offsets and alignment; the caller defines what the blocks hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from q3edge.exporters.onnx.stored import TensorSpec

PAGE = 4096  # large tensors start on a page, so that a runtime can map them
_LARGE = 1 << 20
_SMALL_ALIGNMENT = 64


class DataLayout:
    """Layout of the file of weights, in the order of storing. specs: tensors so far; end: bytes of the file so far."""

    def __init__(self, location: str) -> None:
        """Start an empty layout; `location`: the file's name in the graph."""
        self._location = location
        self.specs: list[TensorSpec] = []
        self.end = 0  # bytes of the file

    def store(
        self, specs: Sequence[TensorSpec], blocks: Iterable[Sequence[NDArray[Any]]]
    ) -> tuple[ir.ExternalTensor, ...]:
        """Reserve space for several tensors; `blocks` is not read."""
        return tuple(self._reserve(spec) for spec in specs)

    def _reserve(self, spec: TensorSpec) -> ir.ExternalTensor:
        alignment = PAGE if spec.nbytes >= _LARGE else _SMALL_ALIGNMENT
        offset = -(-self.end // alignment) * alignment
        self.end = offset + spec.nbytes
        self.specs.append(spec)
        return ir.ExternalTensor(
            self._location,
            offset,
            spec.nbytes,
            ir.DataType.from_numpy(spec.dtype),
            shape=ir.Shape(spec.shape),
            name=spec.name,
        )


class ExternalData(DataLayout):
    """Writer of a new file of raw little-endian tensors; use as a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self._path = path

    def __enter__(self) -> Self:
        self._file = self._path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def store(
        self, specs: Sequence[TensorSpec], blocks: Iterable[Sequence[NDArray[Any]]]
    ) -> tuple[ir.ExternalTensor, ...]:
        """Write several tensors in parallel: each item of `blocks` holds the next part of every one of them.

        So codes and scales that are read together are written together, with only one block in memory.
        """
        tensors = super().store(specs, blocks)
        self._write(tensors, blocks)
        return tensors

    def _write(self, tensors: Sequence[ir.ExternalTensor], blocks: Iterable[Sequence[NDArray[Any]]]) -> None:
        positions = [tensor.offset or 0 for tensor in tensors]
        for parts in blocks:
            for index, (tensor, part) in enumerate(zip(tensors, parts, strict=True)):
                if part.dtype != tensor.dtype.numpy():
                    raise TypeError(f"{tensor.name}: block of {part.dtype}, expected {tensor.dtype}")
                self._file.seek(positions[index])
                self._file.write(np.ascontiguousarray(part).data)
                positions[index] += part.nbytes
        for tensor, position in zip(tensors, positions):
            if position != (tensor.offset or 0) + (tensor.length or 0):
                raise ValueError(f"{tensor.name}: the blocks do not add up to its {tensor.length} bytes")
