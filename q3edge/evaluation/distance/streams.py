"""Logits of one window from any model, a chunk of tokens at a time, and chunks of two models side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import ValidationError
from q3edge.evaluation.distance.metrics import TokenMetrics, compare_logits
from q3edge.evaluation.distance.windows import Window, padded_inputs
from q3edge.reference.model import LogitsHead, hidden_states

CHUNK = 256  # tokens whose logits [CHUNK, V] are in memory at once
LogitsChunks = Iterator[NDArray[np.float32]]


class CausalDecoder(Protocol):
    """What evaluation needs of `q3edge.runtime.session.decoder.Decoder`."""

    config: Qwen3Config

    def new_cache(self, capacity: int, batch_size: int = 1) -> Any:
        """An empty KV cache, opaque to evaluation."""

    def forward(self, input_ids: NDArray[np.int64], cache: Any, *, keep: int = 1) -> NDArray[np.float32]:
        """Append int64 [B, S]; logits float32 [B, keep, V] of the last positions, of all where keep = 0."""


def decoder_logits(decoder: CausalDecoder, inputs: NDArray[np.int64], chunk: int = CHUNK) -> LogitsChunks:
    """Logits float32 [<= chunk, V] after each token of `inputs` int64 [L], fed `chunk` tokens at a time."""
    cache = decoder.new_cache(len(inputs))
    for start in range(0, len(inputs), chunk):
        yield decoder.forward(inputs[None, start : start + chunk], cache, keep=0)[0]


def head_logits(head: LogitsHead, hidden: torch.Tensor) -> LogitsChunks:
    """Logits float32 [<= CHUNK, V] of hidden states [L, H]."""
    for part in torch.split(hidden, CHUNK):
        yield head.logits(part).numpy()


class ReferenceLogits:
    """Logits of the float model: hidden states of all windows at construction, the head when they are asked for."""

    def __init__(self, source: WeightSource, windows: Sequence[Window]) -> None:
        self._windows = windows
        lengths = [len(window.inputs) for window in windows]
        self._hidden = hidden_states(source, padded_inputs(windows), lengths)
        self._head = LogitsHead(source)

    def chunks(self, window: int) -> LogitsChunks:
        """Logits float32 [<= CHUNK, V] of one window."""
        return head_logits(self._head, self._hidden[window, : len(self._windows[window].inputs)])


def compare(window: Window, reference: NDArray[np.float32], candidate: NDArray[np.float32], start: int) -> TokenMetrics:
    """Metrics of the chunk of `window` that begins at input `start`, from logits [T, V] of both models.

    ValidationError: logits that are NaN or infinite.
    """
    metrics = compare_logits(reference, candidate, window.targets[start : start + len(reference)])
    if not (np.isfinite(metrics.logit_error).all() and np.isfinite(metrics.kl).all()):
        position = start + int(np.argmin(np.isfinite(metrics.logit_error + metrics.kl)))
        raise ValidationError(f"text {window.text}, token {position}: logits are NaN or infinite; export again")
    return metrics
