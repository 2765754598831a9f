"""What float16 does to scales: its limits, and how many groups meet them. Shared by every solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from q3edge.tensor import QuantizedTensor

SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
LARGEST = float(np.finfo(np.float16).max)


def groups_at_limits(weights: NDArray[np.float32], tensor: QuantizedTensor) -> int:
    """Groups of float32 [N, K] weights whose scale float16 cannot hold: stored as zeros, or clipped.

    A group of nothing but zeros has the smallest scale and is exact, so it does not count.
    """
    size = np.abs(tensor.scales.astype(np.float32))
    at_limit = (size == SMALLEST) | (size == LARGEST)
    if not at_limit.any():
        return 0
    occupied = weights.reshape(*tensor.scales.shape, -1).any(axis=-1)
    return int((at_limit & occupied).sum())
