"""GPTQ: weights are rounded one input channel after another, and the error of each rounding is compensated in the
channels not yet rounded (Frantar et al. 2022, arXiv 2210.17323).

Channels are rounded in the order of how strongly they are used ("act-order"), while groups keep their place, so no
runtime needs an index. Grids are fixed before the first channel is rounded. Pure functions; rows are independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from q3edge.calibration.rounding.cholesky import cholesky_
from q3edge.calibration.rounding.grid import Grid
from q3edge.errors import ResourceError
from q3edge.quantization.scheme import Scheme

DAMPING = 0.01
_MOST_DAMPING = 1.0
_OVERFLOW = "the activations' second moments cannot be factored: the model's activations overflow; check its weights"
_CHANNELS = 64  # rounded before the others are updated with one matrix product


@dataclass(frozen=True, slots=True, eq=False)
class InverseFactor:
    """Factor of the damped inverse of a Hessian H [K, K], with the order of channels that GPTQ rounds in.

    order: int64 [K]; upper: float32 [K, K], upper triangular, upper.T @ upper = inverse(H[order][:, order]), H damped.
    importance: float32 [K], the damped diagonal of H, in the order of the channels.
    damping: what was needed; retries: how often it was raised; dead_channels: how many are always 0, rounded alone.
    """

    order: torch.Tensor
    upper: torch.Tensor
    importance: torch.Tensor
    damping: float
    retries: int
    dead_channels: int


def factorize(hessian: torch.Tensor) -> InverseFactor:
    """Order the channels of a Hessian [K, K] by their diagonal and factor its damped inverse.

    Channel j is damped by DAMPING * mean(rms) * rms_j, rms_j = sqrt(H_jj): the share DAMPING of the mean diagonal if
    channels are scaled by rms ** 0.5. Where the Cholesky factorization fails, damping is raised tenfold and tried
    again. ResourceError: it failed even with damping 1, or the diagonal is not finite.
    """
    diagonal = hessian.diagonal()
    if not diagonal.isfinite().all():
        raise ResourceError(_OVERFLOW)
    order = torch.argsort(diagonal, descending=True, stable=True)
    rms = diagonal.clamp(min=0).sqrt()
    dead = rms == 0
    mean = rms.mean() if rms.any() else torch.ones_like(rms.mean())  # also the RMS that a dead channel is given
    damping, retries = DAMPING, 0
    while True:
        # Reversed, the factor of H itself is upper triangular, and one triangular inverse gives that of H's inverse.
        backwards = order.flip(0)
        matrix = hessian[backwards][:, backwards]
        added = damping * mean * torch.where(dead, mean, rms)
        matrix.diagonal().add_(added[backwards])
        if cholesky_(matrix):
            break
        damping, retries = damping * 10, retries + 1
        if not damping <= _MOST_DAMPING:
            raise ResourceError(_OVERFLOW)
    upper = _inverse_of_upper(matrix.flip(0, 1))
    return InverseFactor(order, upper, diagonal + added, damping, retries, int(dead.sum()))


def _inverse_of_upper(upper: torch.Tensor) -> torch.Tensor:
    inverse: torch.Tensor = torch.linalg.solve_triangular(upper, torch.eye(len(upper), dtype=upper.dtype), upper=True)
    return inverse


def round_channels(
    weights: torch.Tensor, factor: InverseFactor, grid: Grid, scheme: Scheme, *, block: int = _CHANNELS
) -> torch.Tensor:
    """Round weights [N, K] on `grid` by GPTQ: steps float32 [N, K].

    `block`: how many channels share one update of the others; it changes the speed only.
    """
    order = factor.order
    columns = weights.T[order].contiguous()  # [K, N]: a channel is one row in memory
    channels = grid.by_channel(order, scheme)
    steps = torch.empty_like(columns)
    diagonal = factor.upper.diagonal().tolist()
    for start in range(0, len(order), block):
        stop = min(start + block, len(order))
        upper = factor.upper[start:stop, start:stop]
        errors = torch.empty_like(columns[start:stop])
        for i, channel in enumerate(range(start, stop)):
            now, step, error = columns[channel], steps[channel], errors[i]
            channels.round_channel(channel, now, out=step)
            torch.addcmul(now, step, channels.sizes[channel], value=-1, out=error).div_(diagonal[channel])
            columns[channel + 1 : stop].addr_(upper[i, i + 1 :], error, alpha=-1)
        columns[stop:].addmm_(factor.upper[start:stop, stop:].T, errors, alpha=-1)
    out = torch.empty_like(weights)
    out[:, order] = steps.T
    return out
