"""Stored names of tensors -> transformers' names, without the prefixes of training frameworks and wrappers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from q3edge.architecture.tensors import EMBEDDING
from q3edge.artifact import Notice
from q3edge.checkpoint.tensor_files import TensorFiles
from q3edge.errors import InputError

_PREFIXES: Final[Mapping[str, str]] = {  # stored prefix -> what transformers' Qwen3ForCausalLM has instead
    "base_model.model.": "",  # peft, adapters merged
    "language_model.": "",  # vision-language models of older transformers
    "model.language_model.": "model.",  # those of newer ones
}
# torch's wrappers name the module inside, at whatever depth: DistributedDataParallel, torch.compile, FullyShardedData-
# Parallel, checkpoint_wrapper. No module of the model itself has such a name.
_WRAPPER = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_ROOT = "model."
_ROOTS = (_ROOT, "lm_head.")  # files of the bare Qwen3Model lack the first


def canonical_names(files: TensorFiles) -> tuple[dict[str, str], list[Notice]]:
    """Map transformers' names to stored names; returns also a Notice for each prefix that was added or removed.

    InputError: two stored names of one tensor.
    """
    stored: dict[str, str] = {}
    changes: Counter[str] = Counter()
    foreign = _foreign_prefix(_without_known(name)[0] for name in files.entries)
    for name in files.entries:
        canonical, changed = _canonical(name, foreign)
        if canonical in stored:
            raise InputError(f"{files.path_of(name)} ({name}): also there as {stored[canonical]}; expected it once")
        stored[canonical] = name
        changes.update(changed)
    return stored, [_notice(prefix, count) for prefix, count in changes.items()]


def canonical_name(name: str) -> str:
    """Name of one tensor as transformers has it, without the prefixes of known programs."""
    return _canonical(name, "")[0]


def _foreign_prefix(names: Iterable[str]) -> str:
    """Prefix that a program of the user's put before all names, by that of the embedding, of which there is one."""
    table = EMBEDDING.removeprefix(_ROOT)
    found = [name.removesuffix(table) for name in names if name.endswith(f".{table}")]
    return found[0].removesuffix(_ROOT) if len(found) == 1 else ""


def _canonical(name: str, foreign: str) -> tuple[str, list[str]]:
    """Canonical name, and the prefixes that were removed; "" among them: `model.` was added."""
    name, changed = _without_known(name)
    if foreign and name.startswith(foreign):
        name = name.removeprefix(foreign)
        changed.append(foreign)
    return (name, changed) if name.startswith(_ROOTS) else (_ROOT + name, [*changed, ""])


def _without_known(name: str) -> tuple[str, list[str]]:
    changed = _WRAPPER.findall(name)
    name = _WRAPPER.sub("", name)
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = _PREFIXES[prefix] + name.removeprefix(prefix)
        changed.append(prefix)
    return name, changed


def _notice(prefix: str, count: int) -> Notice:
    if not prefix:
        return Notice("prefix-added", count, f"{count} tensors without the prefix 'model.' were read as if they had it")
    instead = f"as if it were {_PREFIXES[prefix]!r}" if _PREFIXES.get(prefix) else "as if they had none"
    return Notice("prefix-replaced", count, f"{count} tensors with the prefix {prefix!r} were read {instead}")
