"""Scheme groups: tensors that get one scheme under a budget, such as an input group or all experts of a layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from q3edge.architecture.blocks import InputGroup
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import layers_of
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD

TABLES = "tables"
_EXPERTS = "experts"


@dataclass(frozen=True, slots=True)
class SchemeGroup:
    """Tensors with one scheme: an input group of a layer, all its experts, or the embedding and the head (layer None).

    The operator of experts has one width for all of a layer.
    """

    layer: int | None
    role: str
    tensors: tuple[str, ...]

    @property
    def has_experts(self) -> bool:
        """Whether the tensors are those of experts, which share no one input."""
        return self.role == _EXPERTS

    def covers(self, group: InputGroup) -> bool:
        """Tell whether an input group of the layer has this scheme."""
        return _role(group) == self.role

    @property
    def name(self) -> str:
        """Name for reports: layer.3.qkv, or tables."""
        return self.role if self.layer is None else f"layer.{self.layer}.{self.role}"


def scheme_groups(config: Qwen3Config) -> Iterator[SchemeGroup]:
    """All scheme groups of a model in the order of its layers, the embedding and the head last."""
    for layer in layers_of(config):
        by_role: dict[str, list[str]] = {}
        for group in layer.groups:
            by_role.setdefault(_role(group), []).extend(layer.names(group))
        for role, names in by_role.items():
            yield SchemeGroup(layer.number, role, tuple(names))
    yield SchemeGroup(None, TABLES, (EMBEDDING,) if config.tie_word_embeddings else (EMBEDDING, LM_HEAD))


def _role(group: InputGroup) -> str:
    return group.name if group.expert is None else _EXPERTS
