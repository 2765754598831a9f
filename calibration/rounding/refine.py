"""Sweeps after GPTQ: better codes for the given scales, then better scales for the given codes.

Both lower tr((W - Q) H (W - Q)^T) on the tokens that H was made of, so callers keep a sweep only if the loss
falls on held-out tokens. Pure functions; rows are independent.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from q3edge.calibration.rounding.grid import Grid, stored_scales
from q3edge.quantization.scheme import Scheme

_CHANNELS = 64  # moved before the others are updated with one matrix product
_RIDGE = 1e-4  # share of the mean diagonal that pulls a scale towards its old value: unused groups keep theirs


def descend(
    weights: torch.Tensor, hessian: torch.Tensor, steps: torch.Tensor, grid: Grid, scheme: Scheme
) -> torch.Tensor:
    """Sweep once over the codes by coordinate descent: each channel moves to its best code given all others.

    weights, steps [N, K], hessian [K, K] -> steps [N, K]. The loss never rises. (QuantEase, arXiv 2309.01885.)
    """
    diagonal = hessian.diagonal().clamp(min=torch.finfo(hessian.dtype).tiny)
    channels = grid.by_channel(torch.arange(len(hessian)), scheme)
    found = steps.T.contiguous()
    slope = hessian @ (weights.T - found * channels.sizes)  # minus half the loss's gradient, [K, N]
    inverse_diagonal = (1 / diagonal).tolist()
    best = torch.empty_like(found[0])
    for start in range(0, len(hessian), _CHANNELS):
        stop = min(start + _CHANNELS, len(hessian))
        moves = torch.empty_like(found[start:stop])
        for i, channel in enumerate(range(start, stop)):
            now, move, sizes = found[channel], moves[i], channels.sizes[channel]
            torch.mul(now, sizes, out=move).add_(slope[channel], alpha=inverse_diagonal[channel])
            channels.round_channel(channel, move, out=best)
            torch.sub(best, now, out=move).mul_(sizes)
            now.copy_(best)
            slope[start:stop].addr_(hessian[start:stop, channel], move, alpha=-1)
        slope[:start].addmm_(hessian[:start, start:stop], moves, alpha=-1)
        slope[stop:].addmm_(hessian[stop:, start:stop], moves, alpha=-1)
    return found.T.contiguous()


def refit_scales(weights: torch.Tensor, hessian: torch.Tensor, steps: torch.Tensor, grid: Grid, scheme: Scheme) -> Grid:
    """Fit the scales that minimise the loss for fixed codes: one small linear system per row, over all its groups."""
    rows, width = weights.shape
    groups = grid.scales.shape[1]
    size = width // groups
    if grid.channel_scale is not None:
        steps = steps / grid.channel_scale
    target = ((weights @ hessian) * steps).view(rows, groups, size).sum(-1)
    system = torch.empty(rows, groups, groups, dtype=weights.dtype)
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        system[:, group] = ((steps[:, part] @ hessian[part]) * steps).view(rows, groups, size).sum(-1)
    diagonal = system.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * diagonal.mean(1, keepdim=True) + torch.finfo(diagonal.dtype).tiny
    diagonal.add_(ridge)
    return replace(grid, scales=stored_scales(torch.linalg.solve(system, target + ridge * grid.scales), scheme))
