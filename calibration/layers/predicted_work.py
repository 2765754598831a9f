"""Predicted work of a calibration, in floating-point operations of matrix products: the unit of its progress.

Sums over what the code does, with factors fitted on a 2-core AVX2 machine; the forecast of seconds stands on them too.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer, layers_of
from q3edge.architecture.tensors import of_head
from q3edge.calibration.layers.streams import Tokens
from q3edge.machine.speed import BFLOAT16_GAIN
from q3edge.quantization.scheme import Scheme

_HESSIAN_SHARE = 1.1  # half of all tiles of X^T X, and the diagonal's whole ones
_FACTOR = 2.8  # by K^3: factoring a Hessian [K, K]
_SAMPLED_ROWS = 500  # cost of choosing the channel scale of an input group
_SOLVE = 22  # by N * K^2: rounding [N, K], sweeps and losses
_SOLVE_WEIGHT = 20_000  # by N * K: what is not a matrix product
_LOOPS = 6e7  # by K: over channels, however few the rows; half while choosing
_RECONSTRUCT = 1.6  # by operation: weights made anew for every batch, and moved


@dataclass(frozen=True, slots=True)
class GroupWork:
    """Work on the matrices that share an input of `width` channels; `rows` of them in all are rounded.

    share: of all tokens, that these matrices multiply. is_scaled: a channel scale is chosen for this group alone.
    """

    width: int
    rows: int
    share: float = 1.0
    is_scaled: bool = True

    def moments(self, tokens: int) -> int:
        """Work of summing the second moments of the input over those of so many tokens that come here."""
        return round(tokens * self.share * _HESSIAN_SHARE * self.width**2) if self.rows else 0

    @property
    def choosing(self) -> int:
        """Work of factoring the moments and choosing the channel scale."""
        if not self.rows:
            return 0
        trials = _SAMPLED_ROWS * self._row + self.width * _LOOPS / 2 if self.is_scaled else 0.0
        return round(_FACTOR * self.width**3 + trials)

    @property
    def solving(self) -> int:
        """Work of solving all rows."""
        return round(self.rows * self._row + self.width * _LOOPS / 2) if self.rows else 0

    @property
    def _row(self) -> float:
        return self.width * (_SOLVE * self.width + _SOLVE_WEIGHT)


@dataclass(frozen=True, slots=True)
class LayerWork:
    """Work on one layer for some tokens.

    forward: of all tokens through the layer. shares: of that, to compute the input of each group, and last the output.
    """

    forward: int
    shares: tuple[float, ...]
    groups: tuple[GroupWork, ...]
    tokens: int

    @classmethod
    def of(cls, config: Qwen3Config, layer: Layer, schemes: Mapping[str, Scheme | None], tokens: Tokens) -> LayerWork:
        """Predict the work on a layer; schemes by tensor name, None: it stays float."""
        routed = config.moe.num_experts_per_tok / config.moe.num_experts if config.moe else 1.0
        shares = [1.0 if group.expert is None else routed for group in layer.groups]
        weights = [
            share * sum(math.prod(layer.tensors[field].shape) for field in group.matrices)
            for group, share in zip(layer.groups, shares)
        ]
        # Attention is causal, so a token attends to half of its row on average.
        attention = 2 * tokens.length * config.num_attention_heads * config.head_dim
        count = tokens.sequences * tokens.length
        gain = BFLOAT16_GAIN if tokens.bfloat16 else 1.0
        groups = []
        for group, share in zip(layer.groups, shares):
            rows = sum(layer.tensors[f].shape[0] for f in group.matrices if schemes.get(layer.name(f)) is not None)
            width = layer.tensors[group.matrices[0]].shape[1]
            groups.append(GroupWork(width, rows, share, is_scaled=group.fold is not None))
        return cls(
            forward=round(count * (attention + 2 * sum(weights)) / gain),
            shares=(0.0, *(found / sum(weights) for found in weights)),
            groups=tuple(groups),
            tokens=count,
        )

    def reading(self, group: int) -> int:
        """Work until the moments of the input of this group, counted from 0, are known."""
        return round(self.shares[group] * self.forward) + self.groups[group].moments(self.tokens)

    @property
    def output(self) -> int:
        """Work of computing the layer's output once all is rounded."""
        return round(self.shares[-1] * self.forward)

    @property
    def solving(self) -> int:
        """All of it: reading and rounding of every group, and the output."""
        return sum(map(self.of_group, range(len(self.groups)))) + self.output

    def of_group(self, group: int) -> int:
        """Work of reading and rounding this group, counted from 0."""
        found = self.groups[group]
        return self.reading(group) + found.choosing + found.solving


class CalibrationWork:
    """Work of a calibration: of each layer by its number, and of the head."""

    def __init__(
        self, config: Qwen3Config, schemes: Mapping[str, Scheme | None], tokens: Tokens, *, epochs: int = 0
    ) -> None:
        """Predict for schemes by tensor name (None: it stays float); epochs: of training a layer, 0: none."""
        self._layers = [LayerWork.of(config, layer, schemes, tokens) for layer in layers_of(config)]
        self._epochs, self._held_out = epochs, tokens.held_out / tokens.sequences
        self._head = GroupWork(config.hidden_size, config.vocab_size if of_head(config, schemes) else 0)
        self.head_moments = self._head.moments(tokens.sequences * tokens.length)

    def left(self, begin: int, solved: Container[int]) -> int:
        """Work from layer `begin` on; layers that are solved, and the head after the last, are not solved again.

        Measuring the share of a tied embedding is as nothing beside solving the head.
        """
        layers = range(begin, len(self._layers))
        head = 0 if len(self._layers) in solved else self.head_moments + self._head.choosing + self._head.solving
        return head + sum(self.passing(number) if number in solved else self.solving(number) for number in layers)

    def solving(self, layer: int) -> int:
        """Work of solving a layer, and of training it."""
        return self._layers[layer].solving + self.training(layer)

    def training(self, layer: int) -> int:
        """Work of training a layer, and of taking both models' hidden states through it."""
        if not self._epochs:
            return 0
        return round(training_work(self._layers[layer].forward, self._held_out, self._epochs))

    def passing(self, layer: int) -> int:
        """Work of taking the hidden states through a layer that is solved already."""
        return self._layers[layer].forward * (2 if self._epochs else 1)


def training_work(forward: float, held_out: float, epochs: int) -> float:
    """Predict the work of reconstructing a layer, by that of a forward pass of all tokens.

    Both models go forward once more; a share `held_out` of the tokens twice, all others are trained every epoch.
    """
    return _RECONSTRUCT * forward * (2 + 2 * held_out + 3 * epochs * (1 - held_out))
