"""Files of sentence-transformers beside a checkpoint: what its hidden states are made into, and prompts for queries.

Format: sentence-transformers 2.7 to 5, as in the Qwen3-Embedding checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_list, read_json_object

MODULES_FILE = "modules.json"
POOLING_FILE = "1_Pooling/config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
SENTENCE_FILES = (MODULES_FILE, POOLING_FILE, PROMPTS_FILE)
_EMBEDDING = ("Transformer", "Pooling", "Normalize")  # the modules of an embedding model; the last may be absent
_LAST_TOKEN = "lasttoken"
_SHOWN = 200  # characters of what a file says, in errors


def stated_kind(folder: Path) -> Literal["embedding", "reranker"] | None:
    """Kind of model that the folder's modules.json describes; None: there is none, or it says nothing of either.

    InputError: an embedding that is not the last token's hidden state, normalised.
    """
    path = folder / MODULES_FILE
    if not path.exists():
        return None
    modules = [_name(module) for module in read_json_list(path)]
    if "LogitScore" in modules:
        return "reranker"
    if "Pooling" not in modules:
        return None
    if tuple(modules) not in (_EMBEDDING, _EMBEDDING[:2]):
        raise InputError(
            f"{path}: modules {', '.join(modules)[:_SHOWN]}: expected {', '.join(_EMBEDDING)}, those of Qwen3-Embedding"
        )
    _check_pooling(folder / POOLING_FILE)
    return "embedding"


def query_prompt(folder: Path) -> str:
    """Text that the checkpoint puts before a query where no instruction is given; empty where it has none.

    InputError: the file of prompts is broken.
    """
    path = folder / PROMPTS_FILE
    if not path.exists():
        return ""
    prompts = read_json_object(path).get("prompts") or {}
    found = prompts.get("query") if isinstance(prompts, Mapping) else prompts
    if not isinstance(found, str | None):
        raise InputError(f"{path}: prompts: expected an object with a text `query`")
    return found or ""


def _name(module: Any) -> str:
    """Class of a module, without the package it comes from; empty where an entry is none."""
    kind = module.get("type") if isinstance(module, Mapping) else None
    return kind.rpartition(".")[2] if isinstance(kind, str) else ""


def _check_pooling(path: Path) -> None:
    """Check for last-token pooling: a flag for each way up to sentence-transformers 4, a name from 5 on."""
    raw = read_json_object(path)
    ways = [name.removeprefix("pooling_mode_") for name, on in raw.items() if name.startswith("pooling_mode_") and on]
    named = raw.get("pooling_mode")
    ways += named if isinstance(named, list) else [named] if named is not None else []
    if ways != [_LAST_TOKEN]:
        found = ", ".join(map(str, ways))[:_SHOWN] or "none"
        raise InputError(f"{path}: pooling {found}: expected that of the last token, as Qwen3-Embedding has it")
