"""Stored names of tensors -> transformers' names, without the prefixes of training frameworks and wrappers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from q3edge.artifact import Notice
from q3edge.checkpoint.safetensors.shards import Shards
from q3edge.errors import InputError

_PREFIXES: Final[Mapping[str, str]] = {  # stored prefix -> what transformers' Qwen3ForCausalLM has instead
    "module.": "",  # torch's DistributedDataParallel
    "_orig_mod.": "",  # torch.compile
    "_fsdp_wrapped_module.": "",  # torch's FullyShardedDataParallel
    "base_model.model.": "",  # peft, adapters merged
    "language_model.": "",  # vision-language models of older transformers
    "model.language_model.": "model.",  # those of newer ones
}
_ROOTS = ("model.", "lm_head.")  # files of the bare Qwen3Model lack the first


def canonical_names(shards: Shards) -> tuple[dict[str, str], list[Notice]]:
    """Map transformers' names to stored names; returns also a Notice for each prefix that was added or removed.

    InputError: two stored names of one tensor.
    """
    stored: dict[str, str] = {}
    changes: Counter[str] = Counter()
    for name in shards.entries:
        canonical, changed = _canonical(name)
        if canonical in stored:
            raise InputError(f"{shards.path_of(name)} ({name}): also there as {stored[canonical]}; expected it once")
        stored[canonical] = name
        changes.update(changed)
    return stored, [_notice(prefix, count) for prefix, count in changes.items()]


def _canonical(name: str) -> tuple[str, list[str]]:
    """Canonical name, and the prefixes that were removed; "" among them: `model.` was added."""
    changed = []
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = _PREFIXES[prefix] + name.removeprefix(prefix)
        changed.append(prefix)
    return (name, changed) if name.startswith(_ROOTS) else ("model." + name, [*changed, ""])


def _notice(prefix: str, count: int) -> Notice:
    if not prefix:
        return Notice("prefix-added", count, f"{count} tensors without the prefix 'model.' were read as if they had it")
    instead = f"as if it were {_PREFIXES[prefix]!r}" if _PREFIXES[prefix] else "as if they had none"
    return Notice("prefix-replaced", count, f"{count} tensors with the prefix {prefix!r} were read {instead}")
