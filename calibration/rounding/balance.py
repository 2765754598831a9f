"""How strongly input channels are rescaled before rounding, and which rescalings the layer can undo for free."""

from __future__ import annotations

import torch

from q3edge.architecture.config import Qwen3Config


def balance_of(rms: torch.Tensor, exponent: float) -> torch.Tensor:
    """rms ** exponent with a geometric mean of 1, [K] (the activation part of AWQ's scale, arXiv 2306.00978)."""
    logarithm = rms.log() * exponent
    return (logarithm - logarithm.mean()).exp()


def foldable(balance: torch.Tensor, role: str, config: Qwen3Config) -> torch.Tensor:
    """The nearest balance [K] to `balance` that can be folded into what feeds the stage `role`.

    Norms take any. Rows of v and up are rounded already and take powers of two, which change only scales, exactly; all
    query heads that share a value head take one.
    """
    if role == "down":
        return _power_of_two(balance)
    if role == "o":
        heads = balance.view(config.num_key_value_heads, -1, config.head_dim)
        mean = heads.log().mean(dim=1, keepdim=True).exp()
        return _power_of_two(mean.expand_as(heads).reshape(-1))
    return balance


def _power_of_two(balance: torch.Tensor) -> torch.Tensor:
    return torch.exp2(balance.log2().round())
