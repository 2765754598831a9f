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
    return silu(linear(normed, weights["gate_proj"])).mul_(linear(normed, weights["up_proj"]))
