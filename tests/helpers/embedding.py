"""Small checkpoints laid out as Qwen3-Embedding and Qwen3-Reranker are published, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors

from q3edge.architecture.config import Qwen3Config
from tests.helpers.models import random_weights, tiny_config
from tests.helpers.runtime import write_tokenizer

END = 295  # id of <|endoftext|>
QUERY_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_MODULES = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
_NORMALIZE = "sentence_transformers.models.Normalize"
_WAYS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def write_embedding_checkpoint(folder: Path, *, prefix: str = "", seed: int = 0, **overrides: Any) -> Path:
    """Write a checkpoint as Qwen3-Embedding-0.6B is: tensors without `model.`, no head, files of sentence-transformers.

    The larger ones lack the prefix as well, and their config.json does not tie the head that they have not.
    """
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = processors.TemplateProcessing(
        single="$A <|endoftext|>", pair="$A <|endoftext|> $B:1 <|endoftext|>:1", special_tokens=[("<|endoftext|>", END)]
    )
    level = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.Sequence([level, ends])
    tokenizer.save(str(folder / "tokenizer.json"))
    raw = tiny_config(**overrides)
    (folder / "config.json").write_text(json.dumps(raw))
    weights = random_weights(Qwen3Config.from_dict({**raw, "tie_word_embeddings": True}), seed)
    renamed = {prefix + name.removeprefix("model."): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    write_modules(folder, [*_MODULES, _NORMALIZE])
    (folder / "1_Pooling").mkdir()
    flags = {f"pooling_mode_{way}": way == "lasttoken" for way in _WAYS}
    fields = {"word_embedding_dimension": raw["hidden_size"], **flags, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(fields))
    prompts = {"prompts": {"query": QUERY_PROMPT, "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def write_modules(folder: Path, types: list[str]) -> None:
    """Write modules.json with modules of these types."""
    paths = ["", *(f"{number}_{kind.rpartition('.')[2]}" for number, kind in enumerate(types[1:], 1))]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (kind, path) in enumerate(zip(types, paths))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


def write_reranker_checkpoint(folder: Path, **overrides: Any) -> Path:
    """Write a checkpoint as Qwen3-Reranker-0.6B is: a language model whose tokenizer has tokens for yes and no."""
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save(str(folder / "tokenizer.json"))
    raw = tiny_config(**{"vocab_size": 384, "max_position_embeddings": 1024, **overrides})
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(random_weights(Qwen3Config.from_dict(raw)), folder / "model.safetensors", {"format": "pt"})
    return folder


def float_embeddings(weights: dict[str, torch.Tensor], raw: dict[str, Any], texts: list[list[int]]) -> torch.Tensor:
    """Vectors of texts by transformers' Qwen3Model on each alone: last token's state, normalised; float32 [N, H]."""
    from transformers import Qwen3Config as TransformersConfig
    from transformers import Qwen3Model

    model = Qwen3Model(TransformersConfig(**raw)).float().eval()
    model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in weights.items()})
    with torch.no_grad():
        states = [model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in texts]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1)
