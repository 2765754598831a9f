"""Causal self-attention with normed, rotated queries and keys; equals transformers' Qwen3Attention."""

from __future__ import annotations

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from q3edge.architecture.config import Qwen3Config
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize


def attention_context(
    normed: torch.Tensor, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables
) -> torch.Tensor:
    """Compute the input of o_proj [B, S, heads * D] from the normed input of q/k/v [B, S, H], with a causal mask."""
    query = normalize(_heads(normed, weights["q_proj"], config), weights["q_norm"], config)
    key, value = keys_values(normed, weights, config, rotary)
    rotated = rotary.rotate(query.transpose(1, 2))
    context = scaled_dot_product_attention(rotated, key, value, is_causal=True, enable_gqa=True)
    return context.transpose(1, 2).flatten(2)


def keys_values(
    normed: torch.Tensor, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute keys (rotated) and values, as in the KV cache, [B, kv_heads, S, D], from the normed input [B, S, H]."""
    key = normalize(_heads(normed, weights["k_proj"], config), weights["k_norm"], config)
    return rotary.rotate(key.transpose(1, 2)), _heads(normed, weights["v_proj"], config).transpose(1, 2)


def _heads(normed: torch.Tensor, matrix: torch.Tensor, config: Qwen3Config) -> torch.Tensor:
    """Multiply, and split the product [B, S, N] into heads [B, S, N / D, D]."""
    return linear(normed, matrix).view(*normed.shape[:-1], -1, config.head_dim)
