"""The demo model's shape, and how its checkpoint folder is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from q3edge.storage.whole_files import write_whole

from .experts import expert_matrices
from .files import token_id
from .vocab import VOCABULARY, save_tokenizer

MAX_LENGTH = 1024


DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
}

MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 24,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "output_router_logits": False,
    "router_aux_loss_coef": 0.01,
}


def config_dict(tokenizer: Tokenizer, moe: bool) -> dict[str, Any]:
    """The config.json of the checkpoint, in the standard form of Qwen3, or of Qwen3-MoE."""
    return {
        **(MOE if moe else DENSE),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": token_id(tokenizer, "<|endoftext|>"),
        "eos_token_id": token_id(tokenizer, "<|im_end|>"),
        "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": MAX_LENGTH,
        "max_window_layers": 4,
        "num_attention_heads": 6,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
    }


def new_model(tokenizer: Tokenizer, moe: bool) -> PreTrainedModel:
    """A fresh model with random weights in float32; for texts this short plain attention is the fastest."""
    settings = {name: value for name, value in config_dict(tokenizer, moe).items() if name != "torch_dtype"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).float()
    model.set_attn_implementation("eager")
    if moe:
        model.set_experts_implementation("grouped_mm")
    return model


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Stop tokens and the sampling that Qwen3's authors recommend for thinking."""
    stop = [token_id(tokenizer, "<|im_end|>"), token_id(tokenizer, "<|endoftext|>")]
    return {
        "bos_token_id": stop[1],
        "do_sample": True,
        "eos_token_id": stop,
        "pad_token_id": stop[1],
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the file: each expert's matrices by themselves, the embedding that is the output matrix once."""
    for name, value in model.state_dict().items():
        if value.ndim == 3:
            yield from expert_matrices(value, name)
        elif name != "lm_head.weight":
            yield name, value


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write the weights in bfloat16."""
    tensors = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in _tensors(model)}
    write_whole(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))


def save_checkpoint(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the whole folder as transformers reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder)
    save_tokenizer(tokenizer, folder, MAX_LENGTH)
    for name, content in (
        ("config", config_dict(tokenizer, model.config.model_type == MOE["model_type"])),
        ("generation_config", generation_config(tokenizer)),
    ):
        write_whole(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
