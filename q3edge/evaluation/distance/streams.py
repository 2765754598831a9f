"""Logits of windows, a chunk of tokens at a time: `ComparedModel`, which gives them, and a decoder as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.evaluation.distance.windows import Window

CHUNK = 256  # tokens whose logits [CHUNK, V] are in memory at once
LogitsChunks = Iterator[NDArray[np.float32]]


class ComparedModel(Protocol):
    """A model whose predictions are compared with another's."""

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        """Logits of each window, float32 [<= CHUNK, V] at a time.

        They are consumed before the next call, those of one window by any thread.
        """


class CausalDecoder(Protocol):
    """Decoder that evaluation needs, such as `q3edge.runtime.session.decoder.Decoder`."""

    config: Qwen3Config

    def new_cache(self, capacity: int, batch_size: int = 1) -> Any:
        """An empty KV cache, opaque to evaluation."""

    def forward(self, input_ids: NDArray[np.int64], cache: Any, *, keep: int = 1) -> NDArray[np.float32]:
        """Append int64 [B, S] to `cache`; logits float32 [B, keep, V] of the last positions, of all where keep = 0."""


def decoder_logits(decoder: CausalDecoder, inputs: NDArray[np.int64]) -> LogitsChunks:
    """Logits float32 [<= CHUNK, V] after each token of `inputs` int64 [L], fed CHUNK tokens at a time."""
    cache = decoder.new_cache(len(inputs))
    for start in range(0, len(inputs), CHUNK):
        yield decoder.forward(inputs[None, start : start + CHUNK], cache, keep=0)[0]


class ComparedDecoder:
    """A decoder as a compared model: the same artifact gives the same bits, as a candidate or as the reference."""

    def __init__(self, decoder: CausalDecoder) -> None:
        self._decoder = decoder

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        """Logits of each window, float32 [<= CHUNK, V] at a time."""
        return [decoder_logits(self._decoder, window.inputs) for window in windows]
