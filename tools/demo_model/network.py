"""The demo model's shape, and how its checkpoint folder is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from q3edge.storage.whole_files import write_whole

from .files import token_id
from .vocab import VOCABULARY, save_tokenizer

MAX_LENGTH = 1024


def config_dict(tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of the checkpoint, in Qwen3's standard form."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
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
        "model_type": "qwen3",
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


def new_model(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """A fresh model with random weights in float32; for texts this short plain attention is the fastest."""
    settings = {name: value for name, value in config_dict(tokenizer).items() if name != "torch_dtype"}
    model = Qwen3ForCausalLM(Qwen3Config(**settings)).float()
    model.set_attn_implementation("eager")
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


def save_weights(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Write the weights in bfloat16; the output matrix is the embedding and is not stored twice."""
    tensors = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    write_whole(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))


def save_checkpoint(model: Qwen3ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the whole folder as transformers reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder)
    save_tokenizer(tokenizer, folder, MAX_LENGTH)
    for name, content in (
        ("config", config_dict(tokenizer)),
        ("generation_config", generation_config(tokenizer)),
    ):
        write_whole(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
