"""genai_config.json: the settings with which onnxruntime-genai runs the folder unchanged.

Format: onnxruntime-genai 0.18 (its model builder writes the same fields). Defaults are those of `q3edge.runtime` for
the same files: generation_config.json's sampling, no filter it does not name, its end tokens and config.json's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS
from q3edge.artifact import MODEL_FILE
from q3edge.artifact.side_files import GENERATION_CONFIG_FILE
from q3edge.storage.json_files import read_json_object

GENAI_CONFIG_FILE = "genai_config.json"
_SEARCH_DEFAULTS = {"do_sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def write_genai_config(config: Qwen3Config, folder: Path) -> None:
    """Write folder/genai_config.json; reads folder/generation_config.json if there is one."""
    path = folder / GENERATION_CONFIG_FILE
    generation = read_json_object(path) if path.exists() else {}
    text = json.dumps({"model": _model(config, generation), "search": _search(config, generation)}, indent=1)
    (folder / GENAI_CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _model(config: Qwen3Config, generation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "qwen3",
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        **_special_tokens(config, generation),
        "decoder": {
            "filename": MODEL_FILE,
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "hidden_size": config.hidden_size,
            "head_size": config.head_dim,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "inputs": {
                "input_ids": INPUT_IDS,
                "attention_mask": ATTENTION_MASK,
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": LOGITS,
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    }


def _special_tokens(config: Qwen3Config, generation: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the special tokens; genai masks padding by its id, so an end token is used where there is none."""
    eos = generation.get("eos_token_id")
    ends = list(dict.fromkeys([*(eos if isinstance(eos, list) else [eos]), *config.eos_token_ids]))
    ends = [token for token in ends if token is not None]
    bos = generation.get("bos_token_id", config.bos_token_id)
    pad = generation.get("pad_token_id", config.pad_token_id)
    if pad is None and ends:
        pad = ends[0]
    tokens = {"bos_token_id": bos, "eos_token_id": ends, "pad_token_id": pad}
    return {name: value for name, value in tokens.items() if value is not None}


def _search(config: Qwen3Config, generation: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: generation.get(name, default) for name, default in _SEARCH_DEFAULTS.items()}
    return {
        **chosen,
        "num_beams": 1,
        "num_return_sequences": 1,
        "min_length": 0,
        "max_length": config.context_length,
        "past_present_share_buffer": True,
    }
