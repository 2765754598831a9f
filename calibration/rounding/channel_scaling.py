"""Channel scaling: factors for input channels before rounding (AWQ, arXiv 2306.00978), and which fold for free."""

from __future__ import annotations

import torch

from q3edge.architecture.blocks import Fold, NormFold, RowFold


def channel_scale_of(rms: torch.Tensor, exponent: float) -> torch.Tensor:
    """Channel scale rms ** exponent with a geometric mean of 1, [K] (the activation part of AWQ's scale)."""
    logarithm = rms.log() * exponent
    return (logarithm - logarithm.mean()).exp()


def nearest_foldable(channel_scale: torch.Tensor, fold: Fold | None) -> torch.Tensor:
    """Nearest channel scale [K] that can be folded: any into a norm, powers of two into rows; ones where fold is None.

    Channels that share a row (grouped-query attention) get one factor, their geometric mean.
    """
    if fold is None:
        return torch.ones_like(channel_scale)
    if isinstance(fold, NormFold):
        return channel_scale
    if fold.sharing > 1:
        places = channel_scale.view(fold.heads, fold.sharing, fold.width)
        mean = places.log().mean(dim=1, keepdim=True).exp()
        channel_scale = mean.expand_as(places).reshape(-1)
    return torch.exp2(channel_scale.log2().round())


def by_row(channel_scale: torch.Tensor, fold: RowFold) -> torch.Tensor:
    """Factors of the rows of a matrix, [heads * width], by which they are divided to fold a channel scale [K]."""
    return channel_scale.view(fold.heads, fold.sharing, fold.width)[:, 0].reshape(-1)
