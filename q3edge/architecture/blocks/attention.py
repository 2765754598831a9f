"""Self-attention with normed queries and keys and grouped key-value heads (Qwen3Attention of transformers)."""

from __future__ import annotations

from q3edge.architecture.blocks.description import Block, InputGroup, KeyValueState, NormFold, RowFold, Tensor
from q3edge.architecture.config import Qwen3Config

KIND = "attention"


def describe(config: Qwen3Config, layer: int) -> Block:
    """Describe the attention block, which every layer has."""
    hidden, head_dim = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads

    def part(field: str, *shape: int) -> Tensor:
        return Tensor(field, f"self_attn.{field}.weight", shape)

    return Block(
        kind=KIND,
        tensors=(
            Tensor("input_layernorm", "input_layernorm.weight", (hidden,)),
            part("q_proj", heads * head_dim, hidden),
            part("k_proj", kv_heads * head_dim, hidden),
            part("v_proj", kv_heads * head_dim, hidden),
            part("q_norm", head_dim),
            part("k_norm", head_dim),
            part("o_proj", hidden, heads * head_dim),
        ),
        norm="input_layernorm",
        groups=(
            InputGroup("qkv", ("q_proj", "k_proj", "v_proj"), NormFold("input_layernorm")),
            InputGroup("o", ("o_proj",), RowFold("v_proj", kv_heads, heads // kv_heads, head_dim)),
        ),
        state=KeyValueState(kv_heads, head_dim),
    )
