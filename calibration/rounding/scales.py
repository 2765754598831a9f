"""Count of groups whose scale cannot be stored. Shared by every solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from q3edge.quantization.scales import at_limits
from q3edge.quantization.tensor import QuantizedTensor


def groups_at_limits(weights: NDArray[np.float32], tensor: QuantizedTensor) -> int:
    """Number of groups of float32 [N, K] weights whose scale was clipped, or so raised that all became zeros."""
    smallest, largest = at_limits(tensor.scales, tensor.scheme)
    lost = 0
    for row in np.flatnonzero(smallest.any(axis=1)):  # few, if any
        wanted = weights[row].reshape(tensor.scales.shape[1], -1)
        stored = tensor.rows(slice(row, row + 1)).dequantize().reshape(wanted.shape)
        lost += int((smallest[row] & wanted.any(axis=1) & ~stored.any(axis=1)).sum())
    return lost + int(largest.sum())
