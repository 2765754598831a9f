"""Rounding to nearest with a scale search: the solver that needs no calibration data, only (W, scheme).

Results depend on the weights alone, not on blocking or threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.calibration.rounding.grid import as_tensor, choose_grid, round_to_grid
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor

_BLOCK = 1 << 17  # weights rounded at a time: the temporaries stay in the cache


def round_to_nearest(weights: NDArray[np.float32], scheme: Scheme) -> QuantizedTensor:
    """Quantize float32 [N, K] weights; rows are independent, so any row block may be solved alone.

    A group whose scale is too small to be stored becomes zeros of the smallest scale.
    """
    step = max(1, _BLOCK // weights.shape[1])
    blocks = [_round_block(weights[start : start + step], scheme) for start in range(0, len(weights), step)]
    return QuantizedTensor.concatenate(blocks)


def _round_block(weights: NDArray[np.float32], scheme: Scheme) -> QuantizedTensor:
    block = torch.from_numpy(weights)
    grid = choose_grid(block, scheme)
    return as_tensor(round_to_grid(block, grid, scheme), grid, scheme)
