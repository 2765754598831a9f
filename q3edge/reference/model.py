"""The whole float model: embedding, every layer in turn over all sequences, final norm, logits in pieces.

Memory is one layer, the hidden states and the activations of a few sequences, for any number of layers. Embedding and
head are read in row blocks, except a small head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import linear

from q3edge import progress
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, head_tensor
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError
from q3edge.reference.layer import pass_layer
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize, read_tensor

MAX_TABLE_BYTES = 640 << 20  # a float32 head up to this size stays in memory between calls
_BLOCK_BYTES = 64 << 20  # rows of a larger head read at a time
_PRODUCT_ROWS = 1024  # rows of the head multiplied at a time: their logits stay in the CPU's cache, 1.4 times faster
_EMBEDDING_ROWS = 256  # rows of the embedding read at a time, where any of them is needed
_TOKENS_AT_ONCE = 1024  # keeps the widest activation near 64 MB at the 32B shape
# Weights of a layer, the name of one of its input groups, the group's input [B, S, K], tables.
Watch = Callable[[LayerWeights, str, torch.Tensor, RotaryTables], None]


@torch.no_grad()
def hidden_states(
    source: WeightSource,
    token_ids: NDArray[np.int64],
    lengths: Sequence[int] | None = None,
    *,
    label: str = "float reference",
    watch: Watch | None = None,
) -> torch.Tensor:
    """Compute hidden states float32 [B, S, H] after the final norm, for token ids [B, S]; each weight is read once.

    lengths: number of real tokens of each sequence (None: all); the rest is padding on the right, whose states are
    undefined. Padding is computed only within the few sequences that go through a layer together, so neighbours should
    have similar lengths. watch: called with the input of every input group, for some sequences at a time.

    InputError: token ids outside the vocabulary.
    """
    config = source.config
    x = embed(source, token_ids)
    rotary = RotaryTables.of(config, token_ids.shape[1])
    parts = [x[rows, :columns] for rows, columns in _together(lengths or [token_ids.shape[1]] * len(token_ids))]
    with progress.task(label, config.num_hidden_layers) as advance:
        for layer in range(config.num_hidden_layers):
            weights = LayerWeights.read(source, layer)
            seen = None if watch is None else partial(_show, watch, weights, rotary)
            pass_layer(parts, weights, config, rotary, watch=seen)
            advance(1)
    norm = read_tensor(source, FINAL_NORM)
    for part in parts:
        part.copy_(normalize(part, norm, config))
    return x


def _show(watch: Watch, weights: LayerWeights, rotary: RotaryTables, group: str, values: torch.Tensor) -> None:
    watch(weights, group, values, rotary)


def _together(lengths: Sequence[int]) -> list[tuple[slice, int]]:
    """Split sequences into runs of at most _TOKENS_AT_ONCE tokens: (rows, longest length) of each."""
    made: list[tuple[slice, int]] = []
    start = longest = 0
    for stop, length in enumerate(lengths):
        if stop > start and max(longest, length) * (stop + 1 - start) > _TOKENS_AT_ONCE:
            made.append((slice(start, stop), longest))
            start, longest = stop, 0
        longest = max(longest, length)
    return [*made, (slice(start, len(lengths)), longest)]


def embed(source: WeightSource, token_ids: NDArray[np.int64]) -> torch.Tensor:
    """Look up token ids [B, S] in the embedding, float32 [B, S, H]; only row blocks that occur are read."""
    config = source.config
    if token_ids.size and not 0 <= int(token_ids.min()) <= int(token_ids.max()) < config.vocab_size:
        raise InputError(
            f"token ids {token_ids.min()}..{token_ids.max()}: expected 0..{config.vocab_size - 1}; "
            "the tokenizer does not belong to this model"
        )
    flat = token_ids.reshape(-1)
    out = np.empty((flat.size, config.hidden_size), np.float32)
    for block in np.unique(flat // _EMBEDDING_ROWS).tolist():
        first = block * _EMBEDDING_ROWS
        rows = source.read(EMBEDDING, slice(first, min(first + _EMBEDDING_ROWS, config.vocab_size)))
        wanted = np.flatnonzero(flat // _EMBEDDING_ROWS == block)
        out[wanted] = rows[flat[wanted] - first]
    return torch.from_numpy(out).reshape(*token_ids.shape, config.hidden_size)


class LogitsHead:
    """Head of a model: hidden states [T, H] -> logits [T, V]; the caller keeps T small.

    A table of at most `max_table_bytes` is read once; a larger one in blocks on every call.
    """

    def __init__(self, source: WeightSource, *, max_table_bytes: int = MAX_TABLE_BYTES) -> None:
        self._source, self._name = source, head_tensor(source.config)
        row_bytes = 4 * source.config.hidden_size
        self._rows = max(1, _BLOCK_BYTES // row_bytes)
        keep = source.config.vocab_size * row_bytes <= max_table_bytes
        self._table = read_tensor(source, self._name) if keep else None

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute the logits float32 [T, V] of hidden states [T, H] (after the final norm)."""
        out = torch.empty(len(hidden), self._source.config.vocab_size)
        for rows, table in self._blocks():
            for part, logits in zip(torch.split(table, _PRODUCT_ROWS), torch.split(out[:, rows], _PRODUCT_ROWS, dim=1)):
                logits.copy_(linear(hidden, part))
        return out

    @torch.no_grad()
    def gradient(self, logits_gradient: torch.Tensor) -> torch.Tensor:
        """Compute the gradient by the hidden states, float32 [T, H], from that by the logits [T, V]."""
        out = torch.zeros(len(logits_gradient), self._source.config.hidden_size)
        for rows, table in self._blocks():
            out.addmm_(logits_gradient[:, rows], table)
        return out

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the head in row blocks, (rows, weights); one block where it stays in memory."""
        vocab = self._source.config.vocab_size
        if self._table is not None:
            yield slice(0, vocab), self._table
            return
        for start in range(0, vocab, self._rows):
            rows = slice(start, min(start + self._rows, vocab))
            yield rows, read_tensor(self._source, self._name, rows)
