"""`KVCacheSpec`: the contract between exporter and runtime for graph inputs, outputs and the KV cache.

Names follow what onnxruntime-genai, optimum and transformers.js expect of a decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import layers_of
from q3edge.formats import CacheType

INPUT_IDS = "input_ids"  # int64 [batch_size, sequence_length]
ATTENTION_MASK = "attention_mask"  # int64 [batch_size, total_sequence_length]
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"  # int64 [1], 0: all positions; a constant that q3edge makes an input
PAST_PREFIX = "past_key_values."
LOGITS = "logits"  # float32 [batch_size, kept, vocab_size]
SENTENCE_EMBEDDING = "sentence_embedding"  # float32 [batch_size, hidden_size]: output of a model without cache and head


@dataclass(frozen=True, slots=True)
class CacheBuffer:
    """One buffer of the cache, which a graph reads as its input `past` and writes as its output `present`.

    shape: of one sequence; the axis `length_axis` of it holds tokens and is 0 here. A recurrent state, whose size does
    not depend on the number of tokens, has no such axis (None).
    """

    past: str
    present: str
    shape: tuple[int, ...]
    dtype: str
    length_axis: int | None

    def allocated_shape(self, batch_size: int, capacity: int) -> tuple[int, ...]:
        """Shape for `batch_size` sequences of up to `capacity` tokens."""
        sizes = list(self.shape)
        if self.length_axis is not None:
            sizes[self.length_axis] = capacity
        return batch_size, *sizes

    def fits(self, shape: Sequence[int | str | None]) -> bool:
        """Tell whether a graph's shape [batch_size, ...] agrees in every fixed size; names stand for the others."""
        axes = [axis for axis in range(len(self.shape)) if axis != self.length_axis]
        return len(shape) == 1 + len(self.shape) and all(shape[1 + axis] == self.shape[axis] for axis in axes)


@dataclass(frozen=True, slots=True)
class KVCacheSpec:
    """Names, shapes and type of past and present: [batch_size, kv_heads, length, head_dim] for each of `layers`.

    layers: numbers of the decoder layers that have keys and values, in rising order.
    """

    layers: tuple[int, ...]
    kv_heads: int
    head_dim: int
    dtype: CacheType = "float32"

    @classmethod
    def of(cls, config: Qwen3Config, dtype: CacheType = "float32") -> KVCacheSpec:
        """Specification of the cache of a model with this configuration."""
        layers = (layer.number for layer in layers_of(config) if any(block.state for block in layer.blocks))
        return cls(tuple(layers), config.num_key_value_heads, config.head_dim, dtype)

    def past(self, layer: int) -> tuple[str, str]:
        """Input names of one layer: (key, value)."""
        return f"{PAST_PREFIX}{layer}.key", f"{PAST_PREFIX}{layer}.value"

    def present(self, layer: int) -> tuple[str, str]:
        """Output names of one layer: (key, value)."""
        return f"present.{layer}.key", f"present.{layer}.value"

    def shape(self, batch_size: int, length: int) -> tuple[int, int, int, int]:
        """Shape of one key or value buffer."""
        return batch_size, self.kv_heads, length, self.head_dim

    def buffers(self) -> Iterator[CacheBuffer]:
        """Every buffer of the cache, in the graph's order."""
        for layer in self.layers:
            for past, present in zip(self.past(layer), self.present(layer)):
                yield CacheBuffer(past, present, self.shape(1, 0)[1:], self.dtype, length_axis=1)

    def bytes_per_token(self) -> int:
        """Bytes of one token of one sequence over all layers."""
        return 2 * np.dtype(self.dtype).itemsize * len(self.layers) * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, eq=False)
class KVScales:
    """Scales of an int8 cache: a key or value is its int8 times the scale of its layer, head and channel.

    keys (after rotation), values: float32 [layers, kv_heads, head_dim], above 0, in the order of the spec's layers.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
