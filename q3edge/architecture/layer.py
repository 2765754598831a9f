"""`Layer`: one decoder layer as a sequence of blocks, the only description of a layer's tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from q3edge.architecture import blocks
from q3edge.architecture.blocks import Block, InputGroup, Tensor
from q3edge.architecture.config import Qwen3Config


@dataclass(frozen=True)
class Layer:
    """Decoder layer `number` and its blocks in the order of the forward pass."""

    number: int
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, config: Qwen3Config, number: int) -> Layer:
        """Describe one layer of a model."""
        found = (kind(config, number) for kind in blocks.KINDS)
        return cls(number, tuple(block for block in found if block is not None))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors of all blocks by field, in the order of the forward pass."""
        return {tensor.field: tensor for block in self.blocks for tensor in block.tensors}

    @property
    def groups(self) -> tuple[InputGroup, ...]:
        """Input groups of all blocks, in the order of the forward pass."""
        return tuple(group for block in self.blocks for group in block.groups)

    @cached_property
    def of_experts(self) -> frozenset[str]:
        """Fields of the experts' matrices: all of them together can be larger than memory."""
        return frozenset(field for group in self.groups if group.expert is not None for field in group.matrices)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Fields of the matrices that belong to an input group."""
        return tuple(field for group in self.groups for field in group.matrices)

    def name(self, field: str) -> str:
        """Full name of a tensor: q_proj of layer 3 is model.layers.3.self_attn.q_proj.weight."""
        return layer_prefix(self.number) + self.tensors[field].path

    def names(self, group: InputGroup) -> tuple[str, ...]:
        """Full names of the matrices of a group."""
        return tuple(map(self.name, group.matrices))


def layers_of(config: Qwen3Config) -> Iterator[Layer]:
    """Describe all layers of a model, in the order of the forward pass."""
    return (Layer.of(config, number) for number in range(config.num_hidden_layers))


def layer_prefix(number: int) -> str:
    """Name prefix of the tensors of a decoder layer."""
    return f"model.layers.{number}."
