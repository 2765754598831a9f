"""`QuantizedTensor`: integer codes with their scales, unpacked. Exporters pack them into bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from q3edge.quantization.scheme import Scheme

UInt8Array = NDArray[np.uint8]
ScaleArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A quantized matrix (or a block of its rows), K = input width, G = group size.

    codes: uint8 [N, K], each in 0..2**bits-1.
    scales: float16 [N, K/G] (float32 where `scheme.scales` is), finite, of either sign; such as `storable_scales` gives
    where `scheme.scales` is "int8".
    zero_points: uint8 [N, K/G], or None where the scheme is symmetric (2**(bits-1) everywhere).
    """

    codes: UInt8Array
    scales: ScaleArray
    zero_points: UInt8Array | None
    scheme: Scheme

    def __post_init__(self) -> None:
        rows, width = self.codes.shape
        expected = (rows, self.scheme.groups(width))
        if self.codes.dtype != np.uint8 or self.scales.dtype != self.scheme.scale_dtype:
            raise TypeError(
                f"codes {self.codes.dtype} / scales {self.scales.dtype}: expected uint8 / {self.scheme.scale_dtype}"
            )
        if self.scales.shape != expected:
            raise ValueError(f"scales {self.scales.shape}: expected {expected}")
        if (self.zero_points is None) != self.scheme.symmetric:
            raise ValueError("zero_points must be given exactly when the scheme is asymmetric")
        if self.zero_points is not None and (self.zero_points.shape != expected or self.zero_points.dtype != np.uint8):
            raise ValueError(
                f"zero_points {self.zero_points.dtype} {self.zero_points.shape}: expected uint8 {expected}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    def rows(self, part: slice) -> QuantizedTensor:
        """Block of the rows, not copied."""
        zero_points = None if self.zero_points is None else self.zero_points[part]
        return QuantizedTensor(self.codes[part], self.scales[part], zero_points, self.scheme)

    @classmethod
    def concatenate(cls, blocks: Sequence[QuantizedTensor]) -> QuantizedTensor:
        """Concatenate row blocks of one matrix (at least one, of one scheme)."""
        zero_points = [block.zero_points for block in blocks if block.zero_points is not None]
        return cls(
            np.concatenate([block.codes for block in blocks]),
            np.concatenate([block.scales for block in blocks]),
            np.concatenate(zero_points) if zero_points else None,
            blocks[0].scheme,
        )

    @classmethod
    def in_turn(cls, blocks: Sequence[QuantizedTensor]) -> QuantizedTensor:
        """Interleave the rows of blocks alike in shape and scheme: the first of each, then the second of each."""
        zero_points = [block.zero_points for block in blocks if block.zero_points is not None]
        return cls(
            rows_in_turn([block.codes for block in blocks]),
            rows_in_turn([block.scales for block in blocks]),
            rows_in_turn(zero_points) if zero_points else None,
            blocks[0].scheme,
        )

    def regrouped(self, scheme: Scheme) -> QuantizedTensor:
        """Same values by a scheme with smaller groups, each of which repeats the scale and zero point of its own.

        It may also store zero points where they were implicit, and float32 scales.
        """
        times = scheme.groups(self.shape[1]) // self.scales.shape[1]
        if times == 1 and scheme == self.scheme:
            return self
        zero_points = self.zero_points
        if zero_points is None and not scheme.symmetric:
            zero_points = np.full(self.scales.shape, self.scheme.implicit_zero_point, np.uint8)
        zero_points = None if zero_points is None else zero_points.repeat(times, axis=1)
        scales = self.scales.astype(scheme.scale_dtype, copy=False).repeat(times, axis=1)
        return QuantizedTensor(self.codes, scales, zero_points, scheme)

    def dequantize(self) -> Float32Array:
        """Dequantize to float32 [N, K]: (code - zero_point) * scale, one float32 product each.

        This is the definition every runtime must reproduce bit for bit.
        """
        rows, width = self.shape
        groups = self.scales.shape[1]
        codes = self.codes.reshape(rows, groups, width // groups).astype(np.float32)
        if self.zero_points is None:
            codes -= np.float32(self.scheme.implicit_zero_point)
        else:
            codes -= self.zero_points[:, :, None].astype(np.float32)
        codes *= self.scales[:, :, None].astype(np.float32)
        return codes.reshape(rows, width)


def rows_in_turn(arrays: Sequence[NDArray[Number]]) -> NDArray[Number]:
    """Interleave the rows of arrays of one shape [N, ...]: the first of each, then the second of each."""
    if len(arrays) == 1:
        return arrays[0]
    return np.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])
