"""How strongly input channels are rescaled before rounding, and which rescalings the layer can undo for free."""

from __future__ import annotations

import torch

from q3edge.architecture.blocks import Fold, NormFold, RowFold


def channel_scale_of(rms: torch.Tensor, exponent: float) -> torch.Tensor:
    """rms ** exponent with a geometric mean of 1, [K] (the activation part of AWQ's scale, arXiv 2306.00978)."""
    logarithm = rms.log() * exponent
    return (logarithm - logarithm.mean()).exp()


def nearest_foldable(channel_scale: torch.Tensor, fold: Fold | None) -> torch.Tensor:
    """The nearest channel scale [K] that `fold` can undo: any by a norm, powers of two by rows; else ones."""
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
    """A balance that `fold` can undo as factors of the matrix's rows, [heads * width]."""
    return channel_scale.view(fold.heads, fold.sharing, fold.width)[:, 0].reshape(-1)
