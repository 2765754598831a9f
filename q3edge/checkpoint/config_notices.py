"""Notices of what a checkpoint's config.json and folder say that is read otherwise than it may be meant, or not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from q3edge.architecture.config import EMBEDDING_ARCHITECTURE, Qwen3Config
from q3edge.artifact import Notice
from q3edge.artifact.sentence_files import MODULES_FILE, stated_kind
from q3edge.checkpoint.adapter import adapter_files


def config_notices(folder: Path, raw: Mapping[str, Any], config: Qwen3Config) -> tuple[Notice, ...]:
    """Notices of the model in `folder`, whose config.json holds `raw` and was read as `config`."""
    return (*_code(folder, raw), *_adapter(folder), *_rope(raw, config), *_pooling(folder, config))


def _code(folder: Path, raw: Mapping[str, Any]) -> Iterator[Notice]:
    """Notice of Python code in the folder, which is never imported."""
    scripts = sorted(path.name for path in folder.glob("*.py"))
    if scripts or raw.get("auto_map"):
        found = ", ".join(scripts) or "auto_map in config.json"
        yield Notice("remote-code-ignored", max(len(scripts), 1), f"code of the checkpoint was not run: {found}")


def _adapter(folder: Path) -> Iterator[Notice]:
    """Notice of an adapter beside the model, which transformers would load with it."""
    if files := adapter_files(folder):
        detail = (
            f"an adapter (LoRA) lies beside the model ({', '.join(files)}) and was not merged; if it is not in the "
            "weights already, give MODEL+ADAPTER, here with the same folder twice"
        )
        yield Notice("adapter-not-merged", 1, detail)


def _pooling(folder: Path, config: Qwen3Config) -> Iterator[Notice]:
    """Notice of a model without a head that nothing says how to make embeddings with."""
    if config.is_embedding and stated_kind(folder) is None:
        detail = (
            f"config.json names a model without a head ({EMBEDDING_ARCHITECTURE}), and no {MODULES_FILE} says what "
            "for: read as an embedding model by its last token, as Qwen3-Embedding is"
        )
        yield Notice("last-token-assumed", 1, detail)


def _rope(raw: Mapping[str, Any], config: Qwen3Config) -> Iterator[Notice]:
    if raw.get("rope_parameters") and raw.get("rope_scaling"):
        alone = {name: value for name, value in raw.items() if name != "rope_scaling"}
        if Qwen3Config.from_dict(alone).rope != config.rope:
            detail = "rope_parameters of config.json gave way to rope_scaling beside it, as in transformers"
            yield Notice("rope-parameters-replaced", 1, detail)
    if config.rope.rope_type == "dynamic":
        detail = (
            f"dynamic rotary scaling begins behind {config.context_length} tokens, where this model's context ends; "
            "use yarn for a longer one"
        )
        yield Notice("dynamic-rope-not-extended", 1, detail)
