"""One dense decoder layer of Qwen3 in float32, as pure functions over its weights.

Split where calibration needs to look: the input of q/k/v, of o, of gate/up and of down. Equals transformers'
`Qwen3DecoderLayer`. Where weights come from and which layer follows is `q3edge.reference.model`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import layer_prefix
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError
from q3edge.reference.rotary import RotaryTables


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """float32 weights of one layer, H = hidden size, D = head_dim, I = intermediate size; matrices are [out, in]."""

    input_layernorm: torch.Tensor  # [H]
    q_proj: torch.Tensor  # [heads * D, H]
    k_proj: torch.Tensor  # [kv_heads * D, H]
    v_proj: torch.Tensor  # [kv_heads * D, H]
    q_norm: torch.Tensor  # [D]
    k_norm: torch.Tensor  # [D]
    o_proj: torch.Tensor  # [H, heads * D]
    post_attention_layernorm: torch.Tensor  # [H]
    gate_proj: torch.Tensor  # [I, H]
    up_proj: torch.Tensor  # [I, H]
    down_proj: torch.Tensor  # [H, I]

    @property
    def matrices(self) -> dict[str, torch.Tensor]:
        """The fields that are matrices, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith("_proj")}

    @classmethod
    def read(cls, source: WeightSource, layer: int) -> LayerWeights:
        """Read one layer. InputError: it has experts, which are not available yet."""
        if source.config.is_moe_layer(layer):
            raise InputError(
                f"config.json: model_type = {source.config.model_type!r}: layer {layer} has experts; "
                "mixture-of-experts models are not available yet, use a dense Qwen3"
            )
        return cls(**{f.name: read_tensor(source, tensor_name(layer, f.name)) for f in fields(cls)})


def tensor_name(layer: int, part: str) -> str:
    """Full name of a field of LayerWeights: (3, "q_proj") -> model.layers.3.self_attn.q_proj.weight."""
    if part.endswith("layernorm"):
        module = part
    elif part in ("gate_proj", "up_proj", "down_proj"):
        module = f"mlp.{part}"
    else:
        module = f"self_attn.{part}"
    return f"{layer_prefix(layer)}{module}.weight"


def read_tensor(source: WeightSource, name: str, rows: slice | None = None) -> torch.Tensor:
    """float32 tensor `name`, or a range of its rows, as torch."""
    return torch.from_numpy(source.read(name, rows))


def normalize(x: torch.Tensor, weight: torch.Tensor, config: Qwen3Config) -> torch.Tensor:
    """RMSNorm over the last dimension: x / RMS(x) * weight (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    return rms_norm(x.to(weight.dtype), weight.shape, weight, config.rms_norm_eps)  # autocast hands over bfloat16


def keys_values(
    normed: torch.Tensor, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the KV cache holds, keys rotated: each [B, kv_heads, S, D] from the normed input of q/k/v [B, S, H]."""
    key = normalize(_heads(normed, weights.k_proj, config), weights.k_norm, config)
    return rotary.rotate(key.transpose(1, 2)), _heads(normed, weights.v_proj, config).transpose(1, 2)


def attention_context(
    normed: torch.Tensor, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables
) -> torch.Tensor:
    """The input of o_proj [B, S, heads * D] from the normed input of q/k/v [B, S, H]; no token looks ahead."""
    query = rotary.rotate(normalize(_heads(normed, weights.q_proj, config), weights.q_norm, config).transpose(1, 2))
    key, value = keys_values(normed, weights, config, rotary)
    context = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return context.transpose(1, 2).flatten(2)


def _heads(normed: torch.Tensor, matrix: torch.Tensor, config: Qwen3Config) -> torch.Tensor:
    """The product [B, S, N] as [B, S, N / D, D]."""
    return linear(normed, matrix).view(*normed.shape[:-1], -1, config.head_dim)


def gated_product(normed: torch.Tensor, weights: LayerWeights) -> torch.Tensor:
    """The input of down_proj [B, S, I] from the normed input of gate/up [B, S, H] (SwiGLU, arXiv 2002.05202)."""
    return silu(linear(normed, weights.gate_proj)).mul_(linear(normed, weights.up_proj))


def decoder_layer(x: torch.Tensor, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables) -> torch.Tensor:
    """Hidden states [B, S, H] after the layer."""
    normed = normalize(x, weights.input_layernorm, config)
    x = x + linear(attention_context(normed, weights, config, rotary), weights.o_proj)
    normed = normalize(x, weights.post_attention_layernorm, config)
    return x + linear(gated_product(normed, weights), weights.down_proj)
