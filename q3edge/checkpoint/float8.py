"""`Float8Matrix`: a matrix of 8-bit floats with a scale for blocks of it, rows of it or all of it.

The floats are float8_e4m3fn: a sign, 4 bits of exponent with bias 7, 3 of mantissa; 127 and 255 are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from q3edge.checkpoint.matrix import Parts, StoredMatrix
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES
from q3edge.checkpoint.tensor_files import Expected
from q3edge.errors import InputError
from q3edge.quantization.tensor import UInt8Array


def _decoded() -> NDArray[np.float32]:
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    magnitude = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    values = np.where(bits < 128, magnitude, -magnitude)
    values[[127, 255]] = np.nan
    return np.asarray(values, np.float32)


FLOAT8_VALUES: Final = _decoded()  # of each of the 256 codes


class Float8Matrix(StoredMatrix):
    """Matrix of float8_e4m3fn: value = float * scale of its block.

    scale: the part with the scales: [ceil(N/n), ceil(K/k)] for blocks of n x k, [N, 1] or [N] for rows, one for all.
    block: (n, k) of blocks; None: there are none.
    """

    holds_floats = True

    def __init__(self, parts: Parts, shape: tuple[int, int], scale: str, block: tuple[int, int] | None) -> None:
        super().__init__(parts, shape)
        self.label, self._scale = "float8", scale
        rows, width = shape
        stored = parts.shape(scale)
        grid = (1, 1) if block is None else (-(-rows // block[0]), -(-width // block[1]))
        if grid == (1, 1) and stored in ((), (1,), (1, 1)):
            self._block, self._stored = shape, stored
        elif block is None and stored in ((rows,), (rows, 1)):
            self._block, self._stored = (1, width), stored
        elif block is not None:
            self._block, self._stored = block, grid
        else:
            raise InputError(
                f"{parts.where(scale)}: shape {list(stored)}: neither one scale nor one for each of {rows} rows, and "
                "config.json names no size of blocks"
            )

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        return {"weight": (("F8_E4M3",), self.shape), self._scale: (FLOAT_DTYPES, self._stored)}

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K]; InputError: NaN among them."""
        stored: UInt8Array = self.parts.read("weight", rows)
        values: NDArray[np.float32] = FLOAT8_VALUES[stored]
        if np.isnan(values).any():
            raise InputError(f"{self.parts.where('weight')}: values are NaN; the checkpoint is damaged")
        height, width = self._block
        scales = self.parts.read_float(self._scale).reshape(-(-self.shape[0] // height), -1)
        of_rows = scales[np.arange(rows.start, rows.stop) // height]
        for group in range(scales.shape[1]):
            values[:, group * width : (group + 1) * width] *= of_rows[:, group, None]
        return values
