"""Routing of whole texts by the float model: which experts each token goes to, in every layer that has them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge import progress
from q3edge.architecture.layer import layers_of
from q3edge.checkpoint.source import WeightSource
from q3edge.reference.blocks.experts import Routing, mixture
from q3edge.reference.layer import after_sequence, first_input
from q3edge.reference.model import embed
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights


@torch.no_grad()
def chosen_experts(source: WeightSource, token_ids: NDArray[np.int64], *, label: str) -> dict[int, torch.Tensor]:
    """Experts int64 [B, S, k] of each token of the sequences [B, S], by layer; those without experts are left out.

    All sequences go through a layer together, so there should be few: each weight is read once, and nothing behind the
    last router.
    """
    config = source.config
    assert config.moe is not None
    routed = [layer.number for layer in layers_of(config) if any(block.router for block in layer.blocks)]
    x, rotary = embed(source, token_ids), RotaryTables.of(config, token_ids.shape[1])
    chosen: dict[int, torch.Tensor] = {}
    with progress.task(label, routed[-1] + 1) as advance:
        for number in range(routed[-1] + 1):
            weights = LayerWeights.read(source, number)
            for block in weights.layer.blocks:
                if block.router is None:
                    x = after_sequence(x, block, weights, config, rotary)
                    continue
                normed = first_input(x, block, weights, config).flatten(0, 1)
                experts = Routing.of(normed, weights[block.router], config.moe).experts
                chosen[number] = experts.view(*token_ids.shape, -1)
                if number < routed[-1]:
                    x = x + mixture(normed, block, weights, config).view_as(x)
            advance(1)
    return chosen
