"""`LostGroups`: groups of weights whose scale cannot be stored. Shared by every solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.quantization.scales import at_limits
from q3edge.quantization.tensor import QuantizedTensor


@dataclass(frozen=True, slots=True)
class LostGroups:
    """Number of groups whose scale was clipped, or so raised that all weights became zeros, and of all groups.

    squares: sum of the squared weights that the lost groups held.
    """

    lost: int = 0
    groups: int = 0
    squares: float = 0.0

    @classmethod
    def count(cls, weights: NDArray[np.float32], tensor: QuantizedTensor) -> LostGroups:
        """Count those of float32 [N, K] weights that were rounded to `tensor`."""
        smallest, largest = at_limits(tensor.scales, tensor.scheme)
        lost = largest.copy()
        for row in np.flatnonzero(smallest.any(axis=1)):  # few, if any
            wanted = weights[row].reshape(tensor.scales.shape[1], -1)
            stored = tensor.rows(slice(row, row + 1)).dequantize().reshape(wanted.shape)
            lost[row] |= smallest[row] & wanted.any(axis=1) & ~stored.any(axis=1)
        held = weights.reshape(*lost.shape, -1)[lost]
        return cls(int(lost.sum()), lost.size, float(np.square(held, dtype=np.float64).sum()))

    def __add__(self, other: LostGroups) -> LostGroups:
        """Sum over two parts of a tensor."""
        return LostGroups(self.lost + other.lost, self.groups + other.groups, self.squares + other.squares)
