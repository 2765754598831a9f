"""The file of weights beside an ONNX model: tensors are streamed into it block by block.

Owns offsets and alignment. What the blocks hold is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

PAGE = 4096  # large tensors start on a page, so that a runtime can map them
_LARGE = 1 << 20
_SMALL_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, element type and shape of a tensor about to be written."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return prod(self.shape) * self.dtype.numpy().itemsize


class ExternalData:
    """A new file of raw little-endian tensors, in the order they are stored; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0

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
        """Write several tensors side by side: each item of `blocks` holds the next part of every one of them.

        So codes and scales that are read together are written together, and only one block is in memory.
        """
        tensors = tuple(self._reserve(spec) for spec in specs)
        self._write(tensors, blocks)
        return tensors

    def _reserve(self, spec: TensorSpec) -> ir.ExternalTensor:
        alignment = PAGE if spec.nbytes >= _LARGE else _SMALL_ALIGNMENT
        offset = -(-self._end // alignment) * alignment
        self._end = offset + spec.nbytes
        return ir.ExternalTensor(
            self._path.name, offset, spec.nbytes, spec.dtype, shape=ir.Shape(spec.shape), name=spec.name
        )

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


def same_bytes(tensor: ir.ExternalTensor, name: str, shape: tuple[int, ...]) -> ir.ExternalTensor:
    """Another tensor over the bytes of `tensor`: nothing is stored twice."""
    return ir.ExternalTensor(
        tensor.location, tensor.offset, tensor.length, tensor.dtype, shape=ir.Shape(shape), name=name
    )
