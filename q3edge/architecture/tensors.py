"""Tensors of a Qwen3: names and shapes, as in transformers' Qwen3(Moe)ForCausalLM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import layer_prefix, layers_of

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
Value = TypeVar("Value")


def tensor_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a model: name -> shape, in the order of the forward pass.

    A tied model has no lm_head of its own.
    """
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    for layer in layers_of(config):
        prefix = layer_prefix(layer.number)
        shapes |= {prefix + tensor.path: tensor.shape for tensor in layer.tensors.values()}
    shapes[FINAL_NORM] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, config.hidden_size)
    return shapes


def matrix_shapes(config: Qwen3Config) -> dict[str, tuple[int, int]]:
    """Shapes of the tensors that are matrices: name -> (rows, width), in the order of the forward pass."""
    return {name: (shape[0], shape[1]) for name, shape in tensor_shapes(config).items() if len(shape) == 2}


@lru_cache(maxsize=64)
def count_weights(config: Qwen3Config) -> int:
    """Number of weights of a model; a tied head is not counted again."""
    return sum(map(math.prod, tensor_shapes(config).values()))


@lru_cache(maxsize=64)
def count_active_weights(config: Qwen3Config) -> float:
    """Number of weights that one token makes use of: of the experts, those of as many as are chosen for it."""
    return sum(math.prod(shape) * active_share(name, config) for name, shape in tensor_shapes(config).items())


def active_share(name: str, config: Qwen3Config) -> float:
    """Share of tokens that make use of a tensor: of an expert's, if all are chosen alike often, below 1."""
    if config.moe is None or ".experts." not in name:
        return 1.0
    return config.moe.num_experts_per_tok / config.moe.num_experts


def head_tensor(config: Qwen3Config) -> str:
    """Name of the tensor that gives the logits: the embedding's where the weights are tied."""
    return EMBEDDING if config.tie_word_embeddings else LM_HEAD


def of_head(config: Qwen3Config, by_tensor: Mapping[str, Value | None]) -> Value | None:
    """Look up what the tensor that gives the logits has, such as its scheme; None where there is no head."""
    return None if config.is_embedding else by_tensor.get(head_tensor(config))


def components(config: Qwen3Config) -> dict[str, str]:
    """Component that each tensor belongs to, by name: embed_tokens, lm_head, norms, or the kind of its block."""
    shapes = tensor_shapes(config)
    found = {name: name.removeprefix("model.").removesuffix(".weight") for name in (EMBEDDING, LM_HEAD)}
    for layer in layers_of(config):
        found |= {layer.name(tensor.field): block.kind for block in layer.blocks for tensor in block.tensors}
    return {name: "norms" if len(shape) == 1 else found[name] for name, shape in shapes.items()}
