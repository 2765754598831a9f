"""Scheme groups: tensors that get one scheme under a budget, an input group of a layer or embedding and head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import layers_of
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD

TABLES = "tables"


@dataclass(frozen=True, slots=True)
class SchemeGroup:
    """Tensors with one scheme: one input group of one layer, or the embedding and the head (layer None)."""

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
        for group in layer.groups:
            yield SchemeGroup(layer.number, group.name, layer.names(group))
    yield SchemeGroup(None, TABLES, (EMBEDDING,) if config.tie_word_embeddings else (EMBEDDING, LM_HEAD))
