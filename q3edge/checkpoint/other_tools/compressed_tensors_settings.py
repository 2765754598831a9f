"""`quantization_config` of compressed-tensors as any tool writes it: its groups of weights, and which a layer is in.

Format: compressed_tensors.quantization.QuantizationConfig. Most of what a layer is stands in its tensors; the groups
say how many bits a code in a whole byte has, the size of blocks, and whether inputs are rounded. Patterns among targets
are asked only where the groups differ in that, and only simple ones: those of an unknown file may take for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from q3edge.architecture.fields import shown
from q3edge.architecture.tensors import EMBEDDING
from q3edge.errors import InputError

Kind = Literal["int", "float"]
Inputs = Literal["float", "int8_per_token", "other"]

_FORMATS = (
    None, "dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision"
)  # fmt: skip
_ORIGINAL = "start from the original model"
_SIMPLE = re.compile(r"(?:[\^$]|[\w\-/]|\\[.\-]|\.[*+]?|\\d[*+]?|\[[\w\-]+\][*+]?|\((?:\?:)?[\w|.\\\-\[\]]+\))*")
_REPEATS = re.compile(r"(?<!\\)[*+]")
_MOST_REPEATS = 4  # of names of a hundred letters: millions of steps at worst, not more


@dataclass(frozen=True, slots=True)
class Group:
    """One group of weights. block: rows and columns that share a scale, None: other than by blocks."""

    targets: tuple[str, ...]
    kind: Kind
    bits: int
    block: tuple[int, int] | None
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class Settings:
    """Groups in the order of the file; source: that file, for errors."""

    groups: tuple[Group, ...]
    source: str

    def group(self, name: str, kind: Kind) -> Group:
        """Group of a weight whose codes are of a kind; InputError: none, or a pattern that is not simple decides."""
        groups = [group for group in self.groups if group.kind == kind]
        if not groups:
            raise InputError(f"{self.source} ({name}): no group of {kind} weights, as this one is; {_ORIGINAL}")
        if len({(group.bits, group.block, group.inputs) for group in groups}) == 1:
            return groups[0]
        module = name.removesuffix(".weight")
        for matches in (self._is_name, self._is_pattern, self._is_class):
            for group in groups:
                if any(matches(target, module) for target in group.targets):
                    return group
        raise InputError(f"{self.source} ({name}): no target of a group names it; {_ORIGINAL}")

    def _is_name(self, target: str, module: str) -> bool:
        return target == module

    def _is_pattern(self, target: str, module: str) -> bool:
        if not target.startswith("re:"):
            return False
        pattern = target.removeprefix("re:")
        if len(pattern) > 2000 or not _SIMPLE.fullmatch(pattern) or len(_REPEATS.findall(pattern)) > _MOST_REPEATS:
            raise InputError(f"{self.source}: target {shown(target)}: not a simple pattern; {_ORIGINAL}")
        try:
            return re.match(pattern, module) is not None
        except re.error as error:
            raise InputError(f"{self.source}: target {shown(target)}: no pattern ({error})") from None

    def _is_class(self, target: str, module: str) -> bool:
        return target == ("Embedding" if module == EMBEDDING.removesuffix(".weight") else "Linear")


def read_settings(settings: Mapping[str, Any], source: str) -> Settings:
    """Read a `quantization_config`; InputError: not such an object, or weights in a way that is not read."""
    _check_format(settings.get("format"), source)
    for field in ("sparsity_config", "transform_config"):
        stated = settings.get(field)
        if isinstance(stated, Mapping) and (stated.get("format") not in (None, "dense") or stated.get("config_groups")):
            raise InputError(f"{source}: {field}: sparse or rotated weights are not read; {_ORIGINAL}")
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping):
        raise InputError(f"{source}: config_groups {shown(groups)}: expected an object; {_ORIGINAL}")
    read = (_group(group, f"{source}: config_groups.{shown(label)}") for label, group in groups.items())
    return Settings(tuple(group for group in read if group is not None), source)


def _check_format(stated: object, where: str) -> None:
    if stated not in _FORMATS:
        raise InputError(f"{where}: format {shown(stated)} of compressed-tensors is not read; {_ORIGINAL}")


def _group(group: object, where: str) -> Group | None:
    """Read a group; None: it has no weights, as one for a cache alone."""
    if not isinstance(group, Mapping):
        raise InputError(f"{where}: expected an object; {_ORIGINAL}")
    weights, targets = group.get("weights"), group.get("targets")
    if weights is None:
        return None
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise InputError(f"{where}: targets {shown(targets)}: expected a list of names; {_ORIGINAL}")
    _check_format(group.get("format"), where)
    if not isinstance(weights, Mapping):
        raise InputError(f"{where}: weights {shown(weights)}: expected an object; {_ORIGINAL}")
    kind, bits = weights.get("type", "int"), weights.get("num_bits", 8)
    if kind not in ("int", "float") or type(bits) is not int or not 1 <= bits <= 8 or (kind == "float" and bits != 8):
        raise InputError(f"{where}: weights of {shown(bits)} bits ({shown(kind)}) are not read; {_ORIGINAL}")
    return Group(tuple(targets), kind, bits, _block(weights, where), _inputs(group.get("input_activations")))


def _block(weights: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if weights.get("strategy") != "block":
        return None
    stated = weights.get("block_structure")
    sizes = stated.split("x") if isinstance(stated, str) else stated
    if isinstance(sizes, list) and len(sizes) == 2:
        rows, columns = (int(size) if re.fullmatch(r"[0-9]{1,9}", str(size), re.ASCII) else 0 for size in sizes)
        if rows and columns:
            return rows, columns
    raise InputError(f"{where}: block_structure {shown(stated)}: expected two sizes; {_ORIGINAL}")


def _inputs(stated: object) -> Inputs:
    if stated is None:
        return "float"
    if not isinstance(stated, Mapping):
        return "other"
    wanted = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    known = {"num_bits": 8, "type": "int", "symmetric": True, **stated}
    return "int8_per_token" if all(known.get(key) == value for key, value in wanted.items()) else "other"
