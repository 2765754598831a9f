"""Scheme groups: tensors that get one scheme under a budget, of one role in a layer or embedding and head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import layers_of
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD

TABLES = "tables"


@dataclass(frozen=True, slots=True)
class SchemeGroup:
    """Tensors with one scheme: input groups of one role in a layer, or the embedding and the head (layer None).

    A role has one input group, or one of each expert: an operator of experts has one width for all.
    """

    layer: int | None
    role: str
    tensors: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name for reports: layer.3.qkv, or tables."""
        return self.role if self.layer is None else f"layer.{self.layer}.{self.role}"


def scheme_groups(config: Qwen3Config) -> Iterator[SchemeGroup]:
    """All scheme groups of a model in the order of its layers, the embedding and the head last."""
    for layer in layers_of(config):
        by_role: dict[str, list[str]] = {}
        for group in layer.groups:
            by_role.setdefault(group.role, []).extend(layer.names(group))
        for role, names in by_role.items():
            yield SchemeGroup(layer.number, role, tuple(names))
    yield SchemeGroup(None, TABLES, (EMBEDDING,) if config.tie_word_embeddings else (EMBEDDING, LM_HEAD))
