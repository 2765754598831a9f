"""Grids: scale and zero point of every group, to which weights are then rounded. Shared by every solver.

Each group is tried under several candidate ranges; every candidate's codes get their least-squares scale, and the pair
with the smallest error, weighted by how strongly each input channel is used, is taken. Pure functions on torch tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from q3edge.quantization.scales import storable_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor

# Candidate ranges as fractions of a group's full range; 24 steps down to 0.5 lower the error by under 1 % more.
_SHRINK = (1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Scales and zero points of every group of a matrix.

    scales: float32 [N, K/G], storable, never 0; zero_points: float32 [N, K/G], whole numbers; channel_scale: float32
    [K], None for ones. A weight w becomes the step clamp(round(w * channel_scale / scale), -zero_point,
    max_code - zero_point). What feeds the matrix is divided by the channel scale: stored codes and scales stand for
    scaled weights, while all that solvers see is unscaled.
    """

    scales: torch.Tensor
    zero_points: torch.Tensor
    channel_scale: torch.Tensor | None = None

    def by_channel(self, order: torch.Tensor, scheme: Scheme) -> ChannelGrid:
        """Grid of every weight, [K, N] with channels in the given order, int64 [K]."""
        group = order // (len(order) // self.scales.shape[1])
        sizes, zero_points = self.scales.T[group], self.zero_points.T[group]
        if self.channel_scale is not None:
            sizes = sizes / self.channel_scale[order].unsqueeze(-1)
        return ChannelGrid(sizes, 1 / sizes, -zero_points, scheme.max_code - zero_points)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGrid:
    """Step sizes, their inverses and the range of steps, all [K, N]: one row holds one input channel."""

    sizes: torch.Tensor
    inverses: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor

    def round_channel(self, channel: int, values: torch.Tensor, out: torch.Tensor) -> None:
        """Write the steps of the grid points nearest to `values` [N] to `out` [N]."""
        torch.mul(values, self.inverses[channel], out=out)
        torch.clamp(out.round_(), self.lowest[channel], self.highest[channel], out=out)


def stored_scales(scales: torch.Tensor, scheme: Scheme, *, up: bool = False) -> torch.Tensor:
    """Scales rounded to values that can be stored, as `q3edge.quantization.scales.storable_scales` does for arrays."""
    return torch.from_numpy(storable_scales(scales.numpy(), scheme, up=up))


def choose_grid(
    weights: torch.Tensor,
    scheme: Scheme,
    importance: torch.Tensor | None = None,
    channel_scale: torch.Tensor | None = None,
) -> Grid:
    """Choose the grid of float32 weights [N, K]; rows are independent.

    importance: float32 [K], the weight of each input channel's squared error (diag of the Hessian); None: all alike.
    channel_scale: float32 [K], by which weights are multiplied; None: ones.
    Eight-bit groups keep at least the full-range scale: clipping gains nothing there.
    """
    groups = scheme.groups(weights.shape[1])
    if channel_scale is not None:
        weights = weights * channel_scale
        importance = None if importance is None else importance / channel_scale.square()
    block = weights.reshape(len(weights), groups, -1)
    full, zero_point = _full_range(block, scheme)
    best, best_gain = full, torch.full_like(full, -1.0)
    share = None if importance is None else importance.reshape(1, groups, -1)
    weighted = block if share is None else block * share
    for fraction in _SHRINK if scheme.bits < 8 else ():
        steps = to_steps(block, full * fraction, zero_point, scheme)
        # For codes q the best scale is <w,q>/<q,q>, and it lowers the squared error by <w,q>^2/<q,q>.
        dot = torch.linalg.vecdot(weighted, steps).unsqueeze(-1)
        norm = torch.linalg.vecdot(steps if share is None else steps * share, steps).unsqueeze(-1)
        norm = torch.where(norm == 0, torch.ones_like(norm), norm)
        gain = dot * dot / norm
        better = gain > best_gain
        best = torch.where(better, dot / norm, best)
        best_gain = torch.maximum(gain, best_gain)
    return Grid(stored_scales(best.squeeze(-1), scheme, up=scheme.bits == 8), zero_point.squeeze(-1), channel_scale)


def _full_range(block: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale that spans a group's whole range, and its zero point, both [N, K/G, 1]."""
    low, high = torch.aminmax(block, dim=-1, keepdim=True)
    if scheme.symmetric:
        # The extreme value lands on the code that has no mirror image: -2**(bits-1), by a scale of the other sign.
        extreme = torch.where(high > -low, high, low)
        return extreme / -scheme.implicit_zero_point, torch.full_like(low, scheme.implicit_zero_point)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / scheme.max_code
    return scale, torch.round(-low / torch.where(scale == 0, torch.ones_like(scale), scale))


def to_steps(values: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Steps of values: codes minus zero points, float32; shapes broadcast."""
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1.0 / scale)
    steps = (values * inverse).round_()
    return torch.clamp(steps, -zero_point, scheme.max_code - zero_point, out=steps)


def round_to_grid(weights: torch.Tensor, grid: Grid, scheme: Scheme) -> torch.Tensor:
    """Round every weight [N, K] to the nearest point of its group's grid; steps float32 [N, K]."""
    if grid.channel_scale is not None:
        weights = weights * grid.channel_scale
    block = weights.reshape(len(weights), grid.scales.shape[1], -1)
    steps = to_steps(block, grid.scales.unsqueeze(-1), grid.zero_points.unsqueeze(-1), scheme)
    return steps.view(len(weights), -1)


def dequantized(steps: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Weights float32 [N, K] that steps [N, K] stand for, with the channel scale removed."""
    block = steps.view(len(steps), grid.scales.shape[1], -1)
    values = (block * grid.scales.unsqueeze(-1)).view(len(steps), -1)
    return values if grid.channel_scale is None else values / grid.channel_scale


def as_tensor(steps: torch.Tensor, grid: Grid, scheme: Scheme) -> QuantizedTensor:
    """Tensor as it is stored (codes, scales, zero points) of steps float32 [N, K] on `grid`."""
    zeros = grid.zero_points.repeat_interleave(steps.shape[1] // grid.zero_points.shape[1], dim=1)
    codes = (steps + zeros).to(torch.uint8).numpy()
    zero_points = None if scheme.symmetric else grid.zero_points.to(torch.uint8).numpy()
    return QuantizedTensor(codes, grid.scales.numpy().astype(scheme.scale_dtype), zero_points, scheme)
