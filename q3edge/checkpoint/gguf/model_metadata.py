"""Metadata of a Qwen3 in GGUF <-> fields of config.json and generation_config.json."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np

from q3edge.architecture.config import EMBEDDING_ARCHITECTURE, Qwen3Config
from q3edge.architecture.fields import Fields, shown
from q3edge.architecture.tensors import LM_HEAD
from q3edge.checkpoint.gguf.writer import Value
from q3edge.errors import InputError, UsageError

ARCHITECTURE: Final = "general.architecture"
_MODEL_TYPES: Final[Mapping[str, str]] = {"qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
_CLASSES = {"qwen3": "Qwen3ForCausalLM", "qwen3moe": "Qwen3MoeForCausalLM"}
_LAST_TOKEN = 3  # llama.cpp's LLAMA_POOLING_TYPE_LAST
_NO_POOLING = (None, 0)
_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
_TOKENS = ("bos", "eos", "padding")


def read_config(metadata: Mapping[str, Any], names: Collection[str], vocab_size: int, source: str) -> dict[str, Any]:
    """Make the fields of config.json; `names`: of the tensors, which tell whether there is a head of its own.

    source: file for errors. InputError: another architecture, or settings that Qwen3 does not have.
    """
    architecture = metadata.get(ARCHITECTURE)
    if architecture not in _MODEL_TYPES:
        known = ", ".join(_MODEL_TYPES)
        raise InputError(f"{source}: {ARCHITECTURE} = {shown(architecture)}: expected one of {known}")
    if metadata.get("general.type", "model") != "model":
        raise InputError(f"{source}: general.type = {shown(metadata['general.type'])}: expected a model's weights")
    read = _Settings(metadata, str(architecture), source)
    heads = read.positive("attention.head_count")
    head_dim = read.positive("attention.key_length", default=read.positive("embedding_length") // heads)
    if read.get("attention.value_length") not in (None, head_dim):
        raise read.error("attention.value_length", f"expected {head_dim}, as of the keys")
    if read.get("rope.dimension_count") not in (None, head_dim):
        raise read.error("rope.dimension_count", f"expected {head_dim}: every pair of a head turns")
    context = read.positive("context_length")
    fields: dict[str, Any] = {
        "architectures": [_CLASSES[str(architecture)]],
        "model_type": _MODEL_TYPES[str(architecture)],
        "vocab_size": vocab_size,
        "hidden_size": read.positive("embedding_length"),
        "intermediate_size": read.positive("feed_forward_length"),
        "num_hidden_layers": read.positive("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read.positive("attention.head_count_kv", default=heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": read.decimal("attention.layer_norm_rms_epsilon", default=1e-6),
        "max_position_embeddings": context,
        "rope_theta": read.decimal("rope.freq_base", default=10000.0),
        "rope_scaling": _rope_scaling(read, context),
        "tie_word_embeddings": LM_HEAD not in names,
        "attention_bias": False,
        **token_ids(metadata),
    }
    if architecture == "qwen3moe":
        fields |= _experts(read)
    return fields | _pooling(read)


def token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of the first, last and padding token, as config.json names them."""
    stored = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _TOKENS}
    return {f"{name.replace('padding', 'pad')}_token_id": value for name, value in stored.items() if value is not None}


def sampling_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of generation_config.json that the metadata recommends; empty where there are none."""
    found = {name: metadata.get(f"general.sampling.{own}") for own, name in _SAMPLING.items()}
    given = {name: _decimal(value) for name, value in found.items() if isinstance(value, int | float)}
    return {"do_sample": True, **given} if given else {}


def write_sampling(generation: Mapping[str, Any]) -> dict[str, Value]:
    """Make the metadata of a generation_config.json's recommendations; none where it does not sample."""
    if generation.get("do_sample") is not True:
        return {}
    given = {own: generation.get(name) for own, name in _SAMPLING.items()}
    return {
        f"general.sampling.{own}": int(value) if own == "top_k" else float(value)
        for own, value in given.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def write_config(config: Qwen3Config) -> dict[str, Value]:
    """Make the metadata of a configuration. UsageError: what llama.cpp's Qwen3 does not have."""
    moe = config.moe
    architecture = "qwen3" if moe is None else "qwen3moe"
    found: dict[str, Value] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope.theta,
        "vocab_size": config.vocab_size,
    }
    rope = config.rope
    if rope.rope_type == "yarn":
        if not rope.truncate:
            raise UsageError("YaRN with truncate = false: llama.cpp has no such rotary scaling")
        found |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.factor,
            "rope.scaling.original_context_length": rope.original_max_position_embeddings,
            "rope.scaling.yarn_beta_fast": rope.beta_fast,
            "rope.scaling.yarn_beta_slow": rope.beta_slow,
        }
        own = rope.attention_factor / _yarn_factor(rope.factor)
        found |= {} if math.isclose(own, 1, rel_tol=1e-6) else {"rope.scaling.attn_factor": own}
    elif rope.rope_type == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if moe is not None:
        if moe.decoder_sparse_step != 1 or moe.mlp_only_layers or not moe.norm_topk_prob:
            raise UsageError(
                "llama.cpp's qwen3moe has experts in every layer, with weights that sum to 1 (decoder_sparse_step = 1, "
                "no mlp_only_layers, norm_topk_prob = true), which this model has not"
            )
        found |= {
            "expert_count": moe.num_experts,
            "expert_used_count": moe.num_experts_per_tok,
            "expert_feed_forward_length": moe.moe_intermediate_size,
        }
    if config.is_embedding:
        found["pooling_type"] = _LAST_TOKEN
    return {ARCHITECTURE: architecture} | {f"{architecture}.{key}": value for key, value in found.items()}


class _Settings:
    """Settings of one architecture in the metadata; InputError for an unfit value, which names the key."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str, source: str) -> None:
        self._fields, self._prefix = Fields(metadata, source), f"{architecture}."

    def get(self, key: str) -> Any:
        """Read any value; None where it is absent."""
        return self._fields.raw.get(self._prefix + key)

    def error(self, key: str, expected: str) -> InputError:
        """Make the error for a value."""
        return self._fields.error(self._prefix + key, expected)

    def positive(self, key: str, default: int | None = None) -> int:
        """Read a positive integer."""
        return self._fields.positive(self._prefix + key, default)

    def decimal(self, key: str, default: float) -> float:
        """Read a positive number: the shortest decimal that float32 rounds to what is stored."""
        return _decimal(self._fields.real(self._prefix + key, default))


def _decimal(value: float) -> float:
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _yarn_factor(factor: float) -> float:
    """What YaRN multiplies attention by: llama.cpp does it by itself."""
    return 0.1 * math.log(factor) + 1


def _rope_scaling(read: _Settings, context: int) -> dict[str, Any] | None:
    kind = read.get("rope.scaling.type")
    if kind in (None, "none"):
        return None
    factor = read.decimal("rope.scaling.factor", default=1.0)
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise read.error("rope.scaling.type", "expected none, linear or yarn")
    own = read.decimal("rope.scaling.attn_factor", default=read.decimal("rope.scaling.yarn_attn_factor", default=1.0))
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": read.positive("rope.scaling.original_context_length", default=context),
        "beta_fast": read.decimal("rope.scaling.yarn_beta_fast", default=32.0),
        "beta_slow": read.decimal("rope.scaling.yarn_beta_slow", default=1.0),
        **({} if own == 1 else {"attention_factor": own * _yarn_factor(factor)}),
    }


def _experts(read: _Settings) -> dict[str, Any]:
    used = read.positive("expert_used_count")
    if read.get("expert_shared_count"):
        raise read.error("expert_shared_count", "expected none: Qwen3 has no shared experts")
    return {
        "num_experts": read.positive("expert_count"),
        "num_experts_per_tok": used,
        "moe_intermediate_size": read.positive(
            "expert_feed_forward_length", default=max(1, read.positive("feed_forward_length") // used)
        ),
        "norm_topk_prob": True,  # llama.cpp knows no other Qwen3
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _pooling(read: _Settings) -> dict[str, Any]:
    kind = read.get("pooling_type")
    if kind in _NO_POOLING:
        return {}
    if kind != _LAST_TOKEN:
        raise read.error("pooling_type", f"expected {_LAST_TOKEN}, the last token's, as Qwen3-Embedding has it")
    return {"architectures": [EMBEDDING_ARCHITECTURE]}
