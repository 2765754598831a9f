"""How strongly input channels are rescaled before rounding, and which rescalings the layer can undo for free."""

from __future__ import annotations

import torch

from q3edge.architecture.blocks import Fold, NormFold, RowFold


def balance_of(rms: torch.Tensor, exponent: float) -> torch.Tensor:
    """rms ** exponent with a geometric mean of 1, [K] (the activation part of AWQ's scale, arXiv 2306.00978)."""
    logarithm = rms.log() * exponent
    return (logarithm - logarithm.mean()).exp()


def foldable(balance: torch.Tensor, fold: Fold | None) -> torch.Tensor:
    """The nearest balance [K] to `balance` that `fold` can undo: any by a norm, powers of two by rows; else ones."""
    if fold is None:
        return torch.ones_like(balance)
    if isinstance(fold, NormFold):
        return balance
    if fold.sharing > 1:
        places = balance.view(fold.heads, fold.sharing, fold.width)
        mean = places.log().mean(dim=1, keepdim=True).exp()
        balance = mean.expand_as(places).reshape(-1)
    return torch.exp2(balance.log2().round())


def by_row(balance: torch.Tensor, fold: RowFold) -> torch.Tensor:
    """A balance that `fold` can undo as factors of the matrix's rows, [heads * width]."""
    return balance.view(fold.heads, fold.sharing, fold.width)[:, 0].reshape(-1)
