"""`LayerWeights`: the tensors of one decoder layer in torch, as its description lists them.

Those of experts, which together can be larger than memory, are read each time they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.functional import rms_norm

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer
from q3edge.checkpoint.source import WeightSource
from q3edge.reference.rotary import RotaryTables


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """Weights of one layer by field, float32; matrices are [out, in].

    tensors: those that are kept. read_other: full name of another -> its values, read anew each time.
    """

    layer: Layer
    tensors: Mapping[str, torch.Tensor]
    read_other: Callable[[str], torch.Tensor]

    @classmethod
    def read(cls, source: WeightSource, number: int) -> LayerWeights:
        """Read one layer, the matrices of its experts not before they are asked for."""
        return cls.by(partial(read_tensor, source), Layer.of(source.config, number))

    @classmethod
    def by(cls, read: Callable[[str], torch.Tensor], layer: Layer) -> LayerWeights:
        """Read one layer by a function of a tensor's full name, as `read` does."""
        kept = [field for field in layer.tensors if field not in layer.of_experts]
        return cls(layer, {field: read(layer.name(field)) for field in kept}, read)

    def __getitem__(self, field: str) -> torch.Tensor:
        kept = self.tensors.get(field)
        return self.read_other(self.layer.name(field)) if kept is None else kept

    @property
    def matrices(self) -> dict[str, torch.Tensor]:
        """Matrices that belong to an input group, by field; all of them in memory."""
        return {field: self[field] for field in self.layer.matrices}

    def replaced(self, changed: Mapping[str, torch.Tensor]) -> LayerWeights:
        """Copy with other tensors for some fields, which are kept."""
        return replace(self, tensors={**self.tensors, **changed})


# Input of a group [B, S, K], weights, config, tables -> input of the next group [B, S, K'].
Step = Callable[[torch.Tensor, LayerWeights, Qwen3Config, RotaryTables], torch.Tensor]


def read_tensor(source: WeightSource, name: str, rows: slice | None = None) -> torch.Tensor:
    """Read tensor `name`, or a range of its rows, as a float32 torch tensor."""
    return torch.from_numpy(source.read(name, rows))


def normalize(x: torch.Tensor, weight: torch.Tensor, config: Qwen3Config) -> torch.Tensor:
    """Apply RMSNorm over the last dimension: x / RMS(x) * weight (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    return rms_norm(x.to(weight.dtype), weight.shape, weight, config.rms_norm_eps)  # autocast gives bfloat16
