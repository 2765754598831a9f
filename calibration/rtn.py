"""Round to nearest with a scale search: the solver that needs no calibration data, only (W, scheme).

Each group is rounded under several candidate scales; every candidate's codes get their least-squares scale, and the
pair with the smallest squared error wins. Eight-bit groups keep the full-range scale: clipping gains nothing there.
Results depend on the weights alone, not on blocking or threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.scales import LARGEST, SMALLEST
from q3edge.scheme import Scheme
from q3edge.tensor import QuantizedTensor

# Candidate ranges as fractions of a group's full range; 24 steps down to 0.5 lower the error by under 1 % more.
_SHRINK = (1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_BLOCK = 1 << 17  # weights rounded at a time: the temporaries stay in the cache


def round_to_nearest(weights: NDArray[np.float32], scheme: Scheme) -> QuantizedTensor:
    """Quantize float32 [N, K] weights; rows are independent, so any row block may be solved alone.

    A group whose scale would underflow float16 is stored as zeros of the smallest scale.
    """
    rows, width = weights.shape
    groups = scheme.groups(width)
    codes = np.empty((rows, width), np.uint8)
    scales = np.empty((rows, groups), np.float16)
    zero_points = None if scheme.symmetric else np.empty((rows, groups), np.uint8)
    step = max(1, _BLOCK // width)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        block = torch.from_numpy(weights[part]).view(-1, groups, width // groups)
        scale, zero_point = _choose(block, scheme)
        codes[part] = _codes(block, scale, zero_point, scheme).view(-1, width).numpy()
        scales[part] = scale.squeeze(-1).numpy()
        if zero_points is not None:
            zero_points[part] = zero_point.squeeze(-1).numpy()
    return QuantizedTensor(codes, scales, zero_points, scheme)


def _choose(block: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """float16 scales and zero points, both [R, K/G, 1], for a block [R, K/G, G]."""
    full, zero_point = _full_range(block, scheme)
    shrink = _SHRINK if scheme.bits < 8 else ()
    best, best_gain = full, torch.full_like(full, -1.0)
    for fraction in shrink:
        steps = _steps(block, full * fraction, zero_point, scheme)
        # For codes q the best scale is <w,q>/<q,q>, and it lowers the squared error by <w,q>^2/<q,q>.
        dot = torch.linalg.vecdot(block, steps).unsqueeze(-1)
        norm = torch.linalg.vecdot(steps, steps).unsqueeze(-1).clamp_(min=1)
        gain = dot * dot / norm
        better = gain > best_gain
        best = torch.where(better, dot / norm, best)
        best_gain = torch.maximum(gain, best_gain)
    scale = best.clamp(-LARGEST, LARGEST).to(torch.float16)
    return torch.where(scale == 0, torch.full_like(scale, SMALLEST), scale), zero_point


def _full_range(block: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale that spans a group's whole range, and its zero point."""
    low, high = torch.aminmax(block, dim=-1, keepdim=True)
    if scheme.symmetric:
        # The extreme value lands on the code that has no mirror image: -2**(bits-1), by a scale of the other sign.
        extreme = torch.where(high > -low, high, low)
        return extreme / -scheme.implicit_zero_point, torch.full_like(low, scheme.implicit_zero_point)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / scheme.max_code
    return scale, torch.round(-low / torch.where(scale == 0, torch.ones_like(scale), scale))


def _steps(block: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Codes minus zero point, as float32."""
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1.0 / scale)
    steps = (block * inverse).round_()
    return torch.clamp(steps, -zero_point, scheme.max_code - zero_point, out=steps)


def _codes(block: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    return _steps(block, scale.float(), zero_point, scheme).add_(zero_point).to(torch.uint8)
