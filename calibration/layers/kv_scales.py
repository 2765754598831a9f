"""Scales of an int8 KV cache: the largest key and value of every channel, for calibration text at any position.

Calibration text is short, and a key's slow pairs of channels have hardly turned by its end: thousands of tokens later a
channel holds what its partner holds here. So of a key counts what it becomes at any position of the context.
"""

from __future__ import annotations

import math

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
    config = source.config
    spec = KVCacheSpec.of(config)
    last = config.max_position_embeddings - 1
    turns = torch.from_numpy(config.rope.inverse_frequencies(config.head_dim) * np.float32(last))
    largest = torch.zeros(2, len(spec.layers), spec.kv_heads, spec.head_dim)

    def watch(weights: LayerWeights, group: str, normed: torch.Tensor, rotary: RotaryTables) -> None:
        if not any(block.state is not None and block.groups[0].name == group for block in weights.layer.blocks):
            return
        keys, values = keys_values(normed, weights, config, _unturned(rotary))
        for peaks, found in zip(largest[:, spec.layers.index(weights.layer.number)], (_turned(keys, turns), values)):
            torch.maximum(peaks, found.abs().amax((0, 2)), out=peaks)

    rows = max(1, TOKENS // token_ids.shape[1])
    hidden_states(source, token_ids[:rows], label="KV cache scales", watch=watch)
    keys, values = (largest / _LARGEST_CODE).clamp_min(_SMALLEST_SCALE).numpy()
    return KVScales(keys, values)


def _unturned(rotary: RotaryTables) -> RotaryTables:
    """Tables in which every position is the first."""
    return RotaryTables(rotary.cos[:1].expand_as(rotary.cos), rotary.sin[:1].expand_as(rotary.sin))


def _turned(keys: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of each channel of keys [..., D] of position 0 while its pair turns by up to `turns` [D/2]."""
    first, second = keys.chunk(2, dim=-1)
    length, angle = torch.hypot(first, second), torch.atan2(second, first)
    return torch.cat([length * _largest_cosine(angle + shift, turns) for shift in (0.0, -math.pi / 2)], dim=-1)


def _largest_cosine(start: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of the cosine of any angle from `start` to `start` + `turns`."""
    end = start + turns
    passes_a_peak = (end / math.pi).floor() > (start / math.pi).floor()
    return torch.where(passes_a_peak, 1.0, torch.maximum(start.cos().abs(), end.cos().abs()))
