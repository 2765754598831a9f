"""One decoder layer of Qwen3 in float32: its blocks in turn, with the input of every input group observable.

Equals transformers' `Qwen3DecoderLayer`. `q3edge.reference.model` reads the weights and runs all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from q3edge.architecture.blocks import Block
from q3edge.architecture.config import Qwen3Config
from q3edge.reference import blocks
from q3edge.reference.blocks.experts import Watch, mixture
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize


def decoder_layer(
    x: torch.Tensor,
    weights: LayerWeights,
    config: Qwen3Config,
    rotary: RotaryTables,
    *,
    watch: Watch | None = None,
) -> torch.Tensor:
    """Compute hidden states [B, S, H] after the layer; `watch` is called with every input group's input [B, S, K].

    Of an expert's groups that is [n, K], for the n tokens that are routed to it.
    """
    for block in weights.layer.blocks:
        if block.router is None:
            x = after_sequence(x, block, weights, config, rotary, watch)
        else:
            normed = first_input(x, block, weights, config)
            x = x + mixture(normed.flatten(0, 1), block, weights, config, watch).view_as(x)
    return x


def pass_layer(
    parts: Sequence[torch.Tensor],
    weights: LayerWeights,
    config: Qwen3Config,
    rotary: RotaryTables,
    *,
    watch: Watch | None = None,
) -> None:
    """Take hidden states [B, S, H] in several parts through the layer, in place; each expert is read once for all.

    watch: as for `decoder_layer`, for one part after another, but for the groups of experts.
    """
    for block in weights.layer.blocks:
        if block.router is None:
            for part in parts:
                part.copy_(after_sequence(part, block, weights, config, rotary, watch))
        else:
            normed = torch.cat([first_input(part, block, weights, config).flatten(0, 1) for part in parts])
            added = mixture(normed, block, weights, config, watch)
            counts = [part.shape[0] * part.shape[1] for part in parts]
            for part, found in zip(parts, torch.split(added, counts)):
                part += found.view_as(part)


def after_sequence(
    x: torch.Tensor,
    block: Block,
    weights: LayerWeights,
    config: Qwen3Config,
    rotary: RotaryTables,
    watch: Watch | None = None,
) -> torch.Tensor:
    """Compute the hidden states [B, S, H] after a block without a router; watch: as for `decoder_layer`."""
    values = first_input(x, block, weights, config)
    for number, group in enumerate(block.groups):
        if number:
            values = next_input(values, block, number, weights, config, rotary)
        if watch is not None:
            watch(group.name, values)
    return block_output(x, values, block, weights)


def first_input(x: torch.Tensor, block: Block, weights: LayerWeights, config: Qwen3Config) -> torch.Tensor:
    """Compute the input of a block's first input group: the normed hidden states [B, S, H]."""
    return normalize(x, weights[block.norm], config)


def next_input(
    values: torch.Tensor, block: Block, group: int, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables
) -> torch.Tensor:
    """Compute the input [B, S, K] of a block's input group `group` (1 or more) from that of the group before.

    A block with a router has no such sequence.
    """
    return blocks.STEPS[block.kind][group - 1](values, weights, config, rotary)


def block_output(x: torch.Tensor, values: torch.Tensor, block: Block, weights: LayerWeights) -> torch.Tensor:
    """Compute the hidden states [B, S, H] after a block from those before it and its last input group's input."""
    (matrix,) = block.groups[-1].matrices
    return x + linear(values, weights[matrix])
