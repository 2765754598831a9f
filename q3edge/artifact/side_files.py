"""Side files, copied with the weights from folder to folder: configuration, tokenizer, generation settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from q3edge.architecture.config import CONFIG_FILE, Qwen3Config
from q3edge.artifact import Notice
from q3edge.artifact.sentence_files import SENTENCE_FILES
from q3edge.errors import InputError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
GENERATION_CONFIG_FILE = "generation_config.json"
GENAI_CONFIG_FILE = "genai_config.json"
RECIPE_FILE = "recipe.toml"  # how the weights were quantized, where a budget decided it
TOKENIZER_MISSING = "tokenizer-missing"  # code of the notice: one may be put beside the model later
SIDE_FILES = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    CHAT_TEMPLATE_FILE,
    "vocab.json",
    "merges.txt",
    GENERATION_CONFIG_FILE,
    RECIPE_FILE,
    *SENTENCE_FILES,
)

_NOT_COPIED = ("quantization_config", "auto_map")


def copy_side_files(source: Path, target: Path, model: Path | None = None) -> tuple[Notice, ...]:
    """Copy the tokenizer and generation settings (links are followed); returns a Notice if there is no tokenizer.

    model: path of the model whose files they are, for the notice (None: `source`).
    """
    for name in SIDE_FILES:
        if (source / name).is_file():
            (target / name).parent.mkdir(exist_ok=True)
            # Contents only: a read-only original must not make the copy read-only.
            shutil.copyfile(source / name, target / name)
    if (target / TOKENIZER_FILE).exists():
        return ()
    detail = (
        f"{model or source} has no {TOKENIZER_FILE}: the result cannot turn text into tokens until one is put beside it"
    )
    return (Notice(TOKENIZER_MISSING, 1, detail),)


def write_float_config(raw: Mapping[str, Any], target: Path, **added: object) -> None:
    """Write config.json of an ONNX model: fields `raw` of its checkpoint's, and `added`; the graph's context is stated.

    Left out are quantization_config, which an ONNX model carries itself, and auto_map, which names code that is not
    copied.
    """
    config = Qwen3Config.from_dict(raw)
    raw = {**raw, **config.rope.fields_of_context(raw, config.max_position_embeddings)}
    kept = {name: value for name, value in raw.items() if name not in _NOT_COPIED}
    text = json.dumps(kept | added, indent=1, ensure_ascii=False)
    (target / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def require_tokenizer(folder: Path, model: Path | None = None) -> None:
    """Raise InputError if `folder` has no tokenizer.json; `model`: path of the model whose folder it is."""
    if not (folder / TOKENIZER_FILE).is_file():
        raise InputError(f"{model or folder}: has no {TOKENIZER_FILE}; copy it from the original model's folder")
