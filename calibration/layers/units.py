"""What a model's matrices are to calibration: which share an input, and so a balance and, under a budget, a scheme."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD
from q3edge.reference.layer import tensor_name

# Fields of LayerWeights by what they are called together, in the order of the forward pass.
STAGE_FIELDS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
TABLES = "tables"


@dataclass(frozen=True, slots=True)
class Unit:
    """Tensors that are stored alike: one stage of one layer, or the embedding and the head (layer None)."""

    layer: int | None
    role: str
    tensors: tuple[str, ...]

    @property
    def name(self) -> str:
        """layer.3.qkv, or tables."""
        return self.role if self.layer is None else f"layer.{self.layer}.{self.role}"


def units_of(config: Qwen3Config) -> Iterator[Unit]:
    """All units, the tables last."""
    for layer in range(config.num_hidden_layers):
        for role, names in STAGE_FIELDS.items():
            yield Unit(layer, role, tuple(tensor_name(layer, name) for name in names))
    yield Unit(None, TABLES, (EMBEDDING,) if config.tie_word_embeddings else (EMBEDDING, LM_HEAD))
