"""One decoder layer of Qwen3 in float32: its blocks in turn, with the input of every input group observable.

Equals transformers' `Qwen3DecoderLayer`. `q3edge.reference.model` reads the weights and runs all layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import linear

from q3edge.architecture.blocks import Block
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import layers_of
from q3edge.errors import InputError
from q3edge.reference import blocks
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize

Watch = Callable[[str, torch.Tensor], None]  # name of an input group, its input


def decoder_layer(
    x: torch.Tensor,
    weights: LayerWeights,
    config: Qwen3Config,
    rotary: RotaryTables,
    *,
    watch: Watch | None = None,
) -> torch.Tensor:
    """Compute hidden states [B, S, H] after the layer; `watch` is called with every input group's input [B, S, K]."""
    for block in weights.layer.blocks:
        values = first_input(x, block, weights, config)
        for number, group in enumerate(block.groups):
            if number:
                values = next_input(values, block, number, weights, config, rotary)
            if watch is not None:
                watch(group.name, values)
        x = block_output(x, values, block, weights)
    return x


def first_input(x: torch.Tensor, block: Block, weights: LayerWeights, config: Qwen3Config) -> torch.Tensor:
    """Compute the input of a block's first input group: the normed hidden states [B, S, H]."""
    return normalize(x, weights[block.norm], config)


def next_input(
    values: torch.Tensor, block: Block, group: int, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables
) -> torch.Tensor:
    """Compute the input [B, S, K] of a block's input group `group` (1 or more) from that of the group before."""
    return blocks.STEPS[block.kind][group - 1](values, weights, config, rotary)


def block_output(x: torch.Tensor, values: torch.Tensor, block: Block, weights: LayerWeights) -> torch.Tensor:
    """Compute the hidden states [B, S, H] after a block from those before it and its last input group's input."""
    (matrix,) = block.groups[-1].matrices
    return x + linear(values, weights[matrix])


def check_computable(config: Qwen3Config) -> None:
    """Raise InputError if a layer has a kind of block that cannot be computed yet."""
    for layer in layers_of(config):
        for block in layer.blocks:
            if block.kind not in blocks.STEPS:
                raise InputError(
                    f"config.json: model_type = {config.model_type!r}: layer {layer.number} has {block.kind}; "
                    "mixture-of-experts models are not available yet, use a dense Qwen3"
                )
