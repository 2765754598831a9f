"""The embedding and the head: matrices [V, H] with a row per vocabulary entry, rounded unlike the layers.

The head multiplies, so it is solved as a layer's matrix is, for the final hidden states. An embedding is looked up:
each of its rows stands for itself and is rounded to nearest. A tied matrix is both, and is solved for both errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import FINAL_NORM, head_tensor
from q3edge.calibration.layers.input_group import TensorReport, solve_unscaled
from q3edge.calibration.layers.streams import Tokens
from q3edge.calibration.rounding.moments import Moments
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.checkpoint.source import WeightSource
from q3edge.progress import Advance, unheard
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.divergence import mean_kl
from q3edge.reference.layer import decoder_layer
from q3edge.reference.model import LogitsHead, embed
from q3edge.reference.parallel import ordered_map
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize, read_tensor

_PROBED, _PROBED_LENGTH = 4, 128  # sequences, and tokens of each, that an embedding's share is measured on
_LEAST_KL = 1e-6  # below, a KL of float32 logits is noise
_BLOCK_ROWS = 4096  # rounded to nearest at a time


def embed_quantized(source: WeightSource, token_ids: NDArray[np.int64], scheme: Scheme | None) -> torch.Tensor:
    """Embed token ids [B, S] by rows rounded to nearest (None: as they are), only those needed; float32 [B, S, H]."""
    rows = embed(source, token_ids)
    if scheme is None:
        return rows
    return torch.from_numpy(round_to_nearest(rows.flatten(0, 1).numpy(), scheme).dequantize()).view_as(rows)


class ReplacedHead:
    """Weight source with another head [V, H]; everything else comes from `source`."""

    def __init__(self, source: WeightSource, table: QuantizedTensor) -> None:
        self._source, self._table, self._name = source, table, head_tensor(source.config)

    @property
    def config(self) -> Qwen3Config:
        """Configuration of the source."""
        return self._source.config

    def scheme(self, name: str) -> Scheme | None:
        """Scheme of tensor `name`, the replaced head's included; None: it is float."""
        return self._table.scheme if name == self._name else self._source.scheme(name)

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read float32 values of tensor `name`, or of a range of its rows; dequantized if it is quantized."""
        return self.read_quantized(name, rows).dequantize() if name == self._name else self._source.read(name, rows)

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        """Read codes and scales of tensor `name`, or of a range of its rows; TypeError if it is float."""
        return self._table.rows(rows or slice(None)) if name == self._name else self._source.read_quantized(name, rows)


def solve_head(
    source: WeightSource, scheme: Scheme, moments: Moments, embedding_share: float, advance: Advance = unheard
) -> tuple[QuantizedTensor, TensorReport]:
    """Round the head [V, H] for final hidden states, whose `moments` [H, H] are given.

    embedding_share: cost of a tied matrix's error as embedding relative to its cost as head; 0 where it is not tied.
    That part of the loss is the same for every channel. advance: as for `solve_unscaled`.
    """
    name = head_tensor(source.config)
    hessian, held_out = (_with_identity(total, embedding_share) for total in (moments.hessian, moments.held_out))
    both = Moments(hessian, held_out)
    read = partial(read_tensor, source, name)
    return solve_unscaled(read, source.config.vocab_size, scheme, both, advance)


def _with_identity(total: torch.Tensor, share: float) -> torch.Tensor:
    total = total.clone()
    total.diagonal().add_(share * total.diagonal().mean())
    return total


@torch.no_grad()
def embedding_share(
    source: WeightSource,
    layers: Iterable[LayerWeights],
    token_ids: NDArray[np.int64],
    scheme: Scheme,
    *,
    bfloat16: bool = False,
) -> float:
    """Ratio of the damage by a tied matrix rounded to `scheme` as embedding to that as head; 0 if it is not tied.

    The ratio of both KLs to the model with the float matrix, on the last few of the sequences `token_ids` [B, S], by
    `layers` in their order. A power of two: it need not be exact, and so does not depend on the number of threads.
    """
    config = source.config
    if not config.tie_word_embeddings:
        return 0.0
    probe = token_ids[-_PROBED:, :_PROBED_LENGTH]
    states = torch.cat([embed_quantized(source, probe, None), embed_quantized(source, probe, scheme)])
    tokens = Tokens(len(states), states.shape[1], 0, bfloat16)
    rotary = RotaryTables.of(config, tokens.length)

    def output(weights: LayerWeights, states: torch.Tensor) -> torch.Tensor:
        parts = tokens.map(lambda part: decoder_layer(states[part], weights, config, rotary))
        return torch.cat([part for _, part in parts])

    for weights in layers:
        states = output(weights, states)
    exact, rounded = normalize(states, read_tensor(source, FINAL_NORM), config).flatten(0, 1).chunk(2)
    float_head = LogitsHead(source, max_table_bytes=0)
    own_head = LogitsHead(ReplacedHead(source, _nearest(source, scheme)), max_table_bytes=0)
    (as_embedding,) = mean_kl(float_head, exact, float_head, [rounded])
    (as_head,) = mean_kl(float_head, exact, own_head, [exact])
    return float(2.0 ** round(math.log2(max(as_embedding, _LEAST_KL) / max(as_head, _LEAST_KL))))


def _nearest(source: WeightSource, scheme: Scheme) -> QuantizedTensor:
    """Round the whole head to nearest."""
    name, rows = head_tensor(source.config), source.config.vocab_size
    blocks = (slice(start, min(start + _BLOCK_ROWS, rows)) for start in range(0, rows, _BLOCK_ROWS))
    return QuantizedTensor.concatenate(
        list(ordered_map(lambda block: round_to_nearest(source.read(name, block), scheme), blocks))
    )
