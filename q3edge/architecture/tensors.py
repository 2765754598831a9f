"""The tensors of a Qwen3: names and shapes, as in transformers' Qwen3(Moe)ForCausalLM."""

from __future__ import annotations

from collections.abc import Iterator

from q3edge.architecture.config import Qwen3Config

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"


def layer_prefix(layer: int) -> str:
    """Name prefix of decoder layer `layer`."""
    return f"model.layers.{layer}."


def tensor_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor the model must have, in the order of the forward pass.

    A tied model has no lm_head of its own. Names are those of transformers' Qwen3(Moe)ForCausalLM.
    """
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    for layer in range(config.num_hidden_layers):
        shapes.update(_layer_shapes(config, layer))
    shapes[FINAL_NORM] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, config.hidden_size)
    return shapes


def head_tensor(config: Qwen3Config) -> str:
    """The tensor that gives the logits: the embedding itself where the weights are tied."""
    return EMBEDDING if config.tie_word_embeddings else LM_HEAD


def _layer_shapes(config: Qwen3Config, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, head_dim = config.hidden_size, config.head_dim
    q_width, kv_width = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    prefix = layer_prefix(layer)
    yield prefix + "input_layernorm.weight", (hidden,)
    yield prefix + "self_attn.q_proj.weight", (q_width, hidden)
    yield prefix + "self_attn.k_proj.weight", (kv_width, hidden)
    yield prefix + "self_attn.v_proj.weight", (kv_width, hidden)
    yield prefix + "self_attn.q_norm.weight", (head_dim,)
    yield prefix + "self_attn.k_norm.weight", (head_dim,)
    yield prefix + "self_attn.o_proj.weight", (hidden, q_width)
    yield prefix + "post_attention_layernorm.weight", (hidden,)
    if config.is_moe_layer(layer) and config.moe is not None:
        yield prefix + "mlp.gate.weight", (config.moe.num_experts, hidden)
        for expert in range(config.moe.num_experts):
            yield from _mlp_shapes(f"{prefix}mlp.experts.{expert}.", hidden, config.moe.moe_intermediate_size)
    else:
        yield from _mlp_shapes(prefix + "mlp.", hidden, config.intermediate_size)


def _mlp_shapes(prefix: str, hidden: int, intermediate: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield prefix + "gate_proj.weight", (intermediate, hidden)
    yield prefix + "up_proj.weight", (intermediate, hidden)
    yield prefix + "down_proj.weight", (hidden, intermediate)
