"""Random matrices for the kernels: codes, scales and zero points, as onnxruntime has them and packed; what they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.kernels.library import Library, MatrixShape, aligned_bytes


@dataclass(frozen=True)
class RandomMatrix:
    """Block-quantized matrix. codes: uint8 [N, K]; scales: float32 [N, K/G]; zero_points: uint8 [N, K/G]."""

    shape: MatrixShape
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8]

    @classmethod
    def of(cls, shape: MatrixShape, rng: np.random.Generator, exact_scales: bool = False) -> RandomMatrix:
        """Any codes; scales that the shape can store, or powers of two, which round nothing."""
        groups, top = (shape.rows, shape.width // shape.group), 1 << shape.bits
        scales = np.exp2(rng.integers(-3, 3, groups)) if exact_scales else rng.normal(0, 0.01, groups)
        kept = scales.astype(np.float32 if shape.float32_scales else np.float16).astype(np.float32)
        points = rng.integers(0, top, groups) if not shape.symmetric else np.full(groups, top // 2)
        codes = rng.integers(0, top, (shape.rows, shape.width))
        return cls(shape, codes.astype(np.uint8), kept, points.astype(np.uint8))

    def stored_codes(self) -> NDArray[np.uint8]:
        """uint8 [N, K/G, G * bits / 8], the first code in the lowest bits."""
        stored = _stored(self.codes, self.shape.bits)
        return np.ascontiguousarray(stored.reshape(self.shape.rows, self.shape.width // self.shape.group, -1))

    def stored_zero_points(self) -> NDArray[np.uint8] | None:
        """uint8 [N, ceil(K/G * bits / 8)]; None if the matrix is symmetric."""
        return None if self.shape.symmetric else _stored(self.zero_points, self.shape.bits)

    def packed(self, library: Library) -> NDArray[np.uint8]:
        """Pack it by the library."""
        out = aligned_bytes(library.packed_bytes(self.shape))
        library.pack(self.shape, self.stored_codes(), self.scales, self.stored_zero_points(), out)
        return out

    def whole(self) -> NDArray[np.int64]:
        """Codes less zero points: int64 [N, K/G, G]."""
        codes = self.codes.reshape(*self.zero_points.shape, self.shape.group).astype(np.int64)
        return codes - self.zero_points[..., None].astype(np.int64)


def _stored(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return values
    even = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
    stored: NDArray[np.uint8] = even[:, 0::2] | even[:, 1::2] << np.uint8(4)
    return stored


def rounded(x: NDArray[np.float32], group: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Round finite activations [M, K] as the kernels and onnxruntime do: codes [M, K/G, G] and scales [M, K/G]."""
    groups = x.reshape(len(x), -1, group)
    largest = np.abs(groups).max(-1)
    with np.errstate(divide="ignore"):
        factor = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    codes = np.rint(groups * factor[..., None]).astype(np.int64)
    return codes, largest / np.float32(127)
