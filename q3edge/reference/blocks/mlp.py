"""The dense MLP (SwiGLU, Shazeer 2020, arXiv 2002.05202); equals transformers' Qwen3MLP."""

from __future__ import annotations

import torch
from torch.nn.functional import linear, silu

from q3edge.architecture.config import Qwen3Config
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights


def gated_product(
    normed: torch.Tensor, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables
) -> torch.Tensor:
    """Compute the input of down_proj [B, S, I] from the normed input of gate/up [B, S, H]."""
    return gated(normed, weights["gate_proj"], weights["up_proj"])


def gated(normed: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Compute silu(x @ gate.T) * (x @ up.T) [..., I] of x [..., H]."""
    return silu(linear(normed, gate)).mul_(linear(normed, up))
