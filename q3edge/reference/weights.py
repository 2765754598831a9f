"""`LayerWeights`: the tensors of one decoder layer in torch, as its description lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import rms_norm

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer
from q3edge.checkpoint.source import WeightSource
from q3edge.reference.rotary import RotaryTables


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """Weights of one layer by field, float32; matrices are [out, in]."""

    layer: Layer
    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def read(cls, source: WeightSource, number: int) -> LayerWeights:
        """Read one layer."""
        layer = Layer.of(source.config, number)
        return cls(layer, {field: read_tensor(source, layer.name(field)) for field in layer.tensors})

    def __getitem__(self, field: str) -> torch.Tensor:
        return self.tensors[field]

    @property
    def matrices(self) -> dict[str, torch.Tensor]:
        """Matrices that belong to an input group, by field."""
        return {field: self.tensors[field] for field in self.layer.matrices}

    def replaced(self, changed: Mapping[str, torch.Tensor]) -> LayerWeights:
        """Copy with other tensors for some fields."""
        return LayerWeights(self.layer, {**self.tensors, **changed})


# Input of a group [B, S, K], weights, config, tables -> input of the next group [B, S, K'].
Step = Callable[[torch.Tensor, LayerWeights, Qwen3Config, RotaryTables], torch.Tensor]


def read_tensor(source: WeightSource, name: str, rows: slice | None = None) -> torch.Tensor:
    """Read tensor `name`, or a range of its rows, as a float32 torch tensor."""
    return torch.from_numpy(source.read(name, rows))


def normalize(x: torch.Tensor, weight: torch.Tensor, config: Qwen3Config) -> torch.Tensor:
    """Apply RMSNorm over the last dimension: x / RMS(x) * weight (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    return rms_norm(x.to(weight.dtype), weight.shape, weight, config.rms_norm_eps)  # autocast gives bfloat16
