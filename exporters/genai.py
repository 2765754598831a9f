"""genai_config.json: the settings with which onnxruntime-genai runs the folder unchanged.

Format: onnxruntime-genai 0.18 (its model builder writes the same fields). Settings are those of `q3edge.runtime` for
the same files; what genai cannot do is a notice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS
from q3edge.artifact import MODEL_FILE, Notice
from q3edge.artifact.side_files import GENAI_CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_FILE
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.storage.json_files import read_json_object

# x86 CPUs without VNNI add pairs of uint8 x int8 in 16 bits, unless this asks for exact sums; others ignore it.
_SESSION_ENTRIES = {"session.x64quantprecision": "1"}
_NOT_IN_GENAI = ("min_p", "stop_strings", "suppress_tokens", "begin_suppress_tokens", "min_new_tokens")


def write_genai_config(config: Qwen3Config, folder: Path) -> tuple[Notice, ...]:
    """Write folder/genai_config.json from the other files in it; returns notices of the settings that are not followed.

    By q3edge or, where they are its own business, by genai. InputError: generation_config.json or the tokenizer is
    unfit.
    """
    path = folder / GENERATION_CONFIG_FILE
    generation = read_json_object(path) if path.exists() else {}
    id_of = Tokenizer.load(folder, config.vocab_size).id_of if (folder / TOKENIZER_FILE).exists() else _no_id
    own = checkpoint_settings(folder, config, id_of)
    fields = {"model": _model(config, generation, own.settings), "search": _search(config, own.settings)}
    text = json.dumps(fields, indent=1, allow_nan=False)
    (folder / GENAI_CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    plain = GenerationSettings()
    missing = [name for name in _NOT_IN_GENAI if getattr(own.settings, name) != getattr(plain, name)]
    if not missing:
        return own.notices
    detail = f"{', '.join(missing)} of {GENERATION_CONFIG_FILE} have no effect in onnxruntime-genai, which lacks them"
    return (*own.notices, Notice("genai-setting-missing", len(missing), detail))


def _no_id(_token: str) -> None:
    return None


def _model(config: Qwen3Config, generation: Mapping[str, Any], settings: GenerationSettings) -> dict[str, Any]:
    return {
        "type": "qwen3",
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        **_special_tokens(config, generation, settings),
        "decoder": {
            "filename": MODEL_FILE,
            "session_options": {"log_id": "onnxruntime-genai", **_SESSION_ENTRIES, "provider_options": []},
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


def _special_tokens(config: Qwen3Config, generation: Mapping[str, Any], settings: GenerationSettings) -> dict[str, Any]:
    """Fields of the special tokens; genai masks padding by its id, so an end token is used where there is none."""
    eos = generation.get("eos_token_id")
    stops = settings.stop_token_ids or frozenset()
    named = [*(eos if isinstance(eos, list) else [eos]), *config.eos_token_ids, *sorted(stops)]
    ends = [token for token in dict.fromkeys(named) if token in stops]
    bos = generation.get("bos_token_id", config.bos_token_id)
    pad = generation.get("pad_token_id", config.pad_token_id)
    if pad is None and ends:
        pad = ends[0]
    tokens = {"bos_token_id": bos, "eos_token_id": ends, "pad_token_id": pad}
    return {name: value for name, value in tokens.items() if value is not None}


def _search(config: Qwen3Config, settings: GenerationSettings) -> dict[str, Any]:
    sampled = settings.temperature > 0
    return {
        "do_sample": sampled,
        "temperature": settings.temperature if sampled else 1.0,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "repetition_penalty": settings.repetition_penalty,
        "no_repeat_ngram_size": settings.no_repeat_ngram_size,
        "num_beams": 1,
        "num_return_sequences": 1,
        "min_length": settings.min_length,
        "max_length": min(settings.max_length or config.context_length, config.context_length),
        "past_present_share_buffer": True,
    }
