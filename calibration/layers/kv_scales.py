"""Scales of an int8 KV cache: the largest key and value of every channel observed on calibration text."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.architecture.kv_cache import KVCacheSpec, KVScales
from q3edge.checkpoint.source import WeightSource
from q3edge.reference.blocks.attention import keys_values
from q3edge.reference.model import hidden_states
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights

TOKENS = 16_384  # that the scales are measured on
_LARGEST_CODE = 127.0
_SMALLEST_SCALE = 1e-6  # of a channel that is always zero


@torch.no_grad()
def kv_scales(source: WeightSource, token_ids: NDArray[np.int64]) -> KVScales:
    """Measure the scales for the model in `source` on the first rows of token ids [B, S], about TOKENS tokens.

    A value beyond anything seen here is clipped to int8's range when it is stored.
    """
    spec = KVCacheSpec.of(source.config)
    largest = torch.zeros(2, len(spec.layers), spec.kv_heads, spec.head_dim)

    def watch(weights: LayerWeights, group: str, normed: torch.Tensor, rotary: RotaryTables) -> None:
        if not any(block.state is not None and block.groups[0].name == group for block in weights.layer.blocks):
            return
        found = keys_values(normed, weights, source.config, rotary)
        for peaks, values in zip(largest[:, spec.layers.index(weights.layer.number)], found):
            torch.maximum(peaks, values.abs().amax((0, 2)), out=peaks)

    rows = max(1, TOKENS // token_ids.shape[1])
    hidden_states(source, token_ids[:rows], label="KV cache scales", watch=watch)
    keys, values = (largest / _LARGEST_CODE).clamp_min(_SMALLEST_SCALE).numpy()
    return KVScales(keys, values)
