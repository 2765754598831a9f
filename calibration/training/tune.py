"""Tuning: codes stay, scales and norms are trained to bring the model's predictions closer to the float model's.

The loss is the KL divergence of the logits (as in mlx-lm's DWQ), the optimizer Adam on relative changes of each scale.
Back-propagation goes layer by layer: a layer's weights are read, used forward, and read again on the way back, so
memory is one layer, the scales with their optimizer state, and the hidden states of one batch at every layer.
Whether it helped is decided on held-out tokens; where it did not, nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge import progress
from q3edge.architecture.layer import Layer, layers_of
from q3edge.architecture.tensors import FINAL_NORM
from q3edge.calibration.training.trained_layer import (
    BATCH_TOKENS,
    Parameter,
    batches,
    by_scales,
    layer_gradients,
    pieces,
    schedule,
    steps_of,
    times_scales,
)
from q3edge.checkpoint.source import WeightSource
from q3edge.quantization.tensor import ScaleArray
from q3edge.reference.layer import decoder_layer
from q3edge.reference.model import LogitsHead, embed, hidden_states
from q3edge.reference.parallel import ordered_map
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize, read_tensor

EPOCHS = 2
RATE = 1e-3  # largest relative change of a scale in one step
_CHECKS = 4  # per epoch, on held-out tokens
_LOGITS_AT_ONCE = 128  # tokens


@dataclass(frozen=True, slots=True, eq=False)
class TuningResult:
    """New scales [N, K/G] and float32 norms by tensor name; KL in nats on held-out tokens before and after."""

    scales: Mapping[str, ScaleArray]
    norms: Mapping[str, NDArray[np.float32]]
    kl_before: float
    kl_after: float
    steps: int


class ScaleTuner:
    """Trainer of the scales and norms of `quantized` towards `source`, the float model it was made from."""

    def __init__(
        self, source: WeightSource, quantized: WeightSource, token_ids: NDArray[np.int64], held_out: int
    ) -> None:
        """Prepare tuning. token_ids: int64 [sequences, length], of which the last `held_out` are held out."""
        self._quantized, self._config = quantized, quantized.config
        self._ids, self._train = token_ids, len(token_ids) - held_out
        self._rotary = RotaryTables.of(self._config, token_ids.shape[1])
        self._float_head, self._head = LogitsHead(source), LogitsHead(quantized)
        self._source = source
        self._parameters: dict[str, Parameter] = {}
        for layer in layers_of(self._config):
            for field in layer.tensors:
                self._add(layer.name(field))
        self._add(FINAL_NORM)

    def run(self, *, epochs: int = EPOCHS, rate: float = RATE) -> TuningResult:
        """Train; returns the state with the smallest held-out KL, which may be the one at the start."""
        self._target = hidden_states(self._source, self._ids, label="float model")
        planned = batches(self._train, self._ids.shape[1], epochs)
        every = max(1, math.ceil(len(planned) / (epochs * _CHECKS)))
        before = best = self._held_out_kl()
        kept = self._values()
        with progress.task("tune", len(planned)) as advance:
            for number, rows in enumerate(planned, 1):
                self._step(rows, rate * schedule(number, len(planned)), number)
                if number % every == 0 or number == len(planned):
                    found = self._held_out_kl()
                    if found < best:
                        best, kept = found, self._values()
                advance(1)
        scales = {name: value for name, value in kept.items() if self._quantized.scheme(name) is not None}
        norms = {name: value.numpy() for name, value in kept.items() if name not in scales}
        stored = {name: value.numpy().astype(self._dtype(name)) for name, value in scales.items()}
        return TuningResult(stored, norms, before, best, len(planned))

    def _add(self, name: str) -> None:
        """Train the scales of tensor `name` if it is rounded, its values if it is a norm; float matrices stay as is."""
        if self._quantized.scheme(name) is not None:
            tensor = self._quantized.read_quantized(name)
            self._parameters[name] = Parameter(torch.from_numpy(tensor.scales).float(), tensor.scheme)
        elif name.endswith("norm.weight"):
            self._parameters[name] = Parameter(torch.from_numpy(self._quantized.read(name)))

    def _dtype(self, name: str) -> str:
        scheme = self._quantized.scheme(name)
        return "float32" if scheme is None else scheme.scale_dtype

    def _values(self) -> dict[str, torch.Tensor]:
        return {name: parameter.stored for name, parameter in self._parameters.items()}

    def _held_out_kl(self) -> float:
        """Mean KL on held-out tokens in nats."""
        rows = np.arange(self._train, len(self._ids))
        batch = max(1, BATCH_TOKENS // self._ids.shape[1])
        parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        return sum(self._loss_and_gradient(part, self._forward(part, keep=False)[0])[0] for part in parts) / len(rows)

    def _step(self, rows: NDArray[np.int64], rate: float, number: int) -> None:
        """Train on one batch: forward, back through head and layers, and a move of every parameter on the way."""
        hidden = self._forward(rows, keep=True)
        last = hidden.pop()
        gradient = self._loss_and_gradient(rows, last, learn=(rate, number))[1]
        for layer in reversed(range(self._config.num_hidden_layers)):
            gradient = self._backward(layer, hidden.pop(), gradient, rate, number)

    def _forward(self, rows: NDArray[np.int64], *, keep: bool) -> list[torch.Tensor]:
        """Hidden states [n, S, H] before every layer and after the last; only the last where not `keep`."""
        states = [embed(self._quantized, self._ids[rows])]
        for layer in range(self._config.num_hidden_layers):
            weights = self._layer(layer)[0]
            forward = partial(decoder_layer, weights=weights, config=self._config, rotary=self._rotary)
            output = torch.cat(list(ordered_map(torch.no_grad()(forward), pieces(states[-1]))))
            states = [*states, output] if keep else [output]
        return states

    def _loss_and_gradient(
        self, rows: NDArray[np.int64], last: torch.Tensor, learn: tuple[float, int] | None = None
    ) -> tuple[float, torch.Tensor]:
        """KL per token, summed over sequences, and with `learn` its gradient by `last`, hidden states [n, S, H].

        learn: rate and number of the move, by which the final norm is then trained.
        """
        norm = self._parameters[FINAL_NORM].stored.requires_grad_(learn is not None)
        leaf = last.detach().requires_grad_(learn is not None)
        with torch.set_grad_enabled(learn is not None):
            normed = normalize(leaf, norm, self._config)
        kl, gradients = 0.0, []
        flat, target = normed.detach().flatten(0, 1), self._target[rows].flatten(0, 1)
        for start in range(0, len(flat), _LOGITS_AT_ONCE):
            part = slice(start, start + _LOGITS_AT_ONCE)
            own = torch.log_softmax(self._head.logits(flat[part]), dim=-1)
            wanted = torch.log_softmax(self._float_head.logits(target[part]), dim=-1)
            share = wanted.exp()
            kl += float((share * wanted.sub_(own)).sum())
            if learn:
                gradients.append(self._head.gradient(own.exp_().sub_(share)))
        if learn is None:
            return kl / last.shape[1], last
        upstream = torch.cat(gradients).view_as(normed) / len(flat)
        by_leaf, by_norm = torch.autograd.grad(normed, [leaf, norm], upstream)
        self._parameters[FINAL_NORM].step(by_norm, *learn)
        return kl / last.shape[1], by_leaf

    def _backward(
        self, layer: int, hidden: torch.Tensor, gradient: torch.Tensor, rate: float, number: int
    ) -> torch.Tensor:
        """Compute the gradient by the layer's input from that by its output, and move its parameters."""
        weights, steps = self._layer(layer)
        learned = [field for field in weights.tensors if weights.layer.name(field) in self._parameters]
        by_input, found = layer_gradients(
            weights, learned, (hidden, gradient), lambda _, given: given, self._config, self._rotary
        )
        for name, by_field in found.items():
            parameter = self._parameters[weights.layer.name(name)]
            if name in steps:
                by_field = by_scales(by_field, steps[name], parameter.start)
            parameter.step(by_field, rate, number)
        return by_input

    def _layer(self, layer: int) -> tuple[LayerWeights, dict[str, torch.Tensor]]:
        """Weights float32 with the current parameters, and the steps [N, K] of every rounded matrix."""
        values, steps = {}, {}
        described = Layer.of(self._config, layer)
        for field in described.tensors:
            name = described.name(field)
            if self._quantized.scheme(name) is not None:
                steps[field] = steps_of(self._quantized.read_quantized(name))
                values[field] = times_scales(steps[field], self._parameters[name].stored)
            elif name in self._parameters:
                values[field] = self._parameters[name].stored
            else:
                values[field] = read_tensor(self._quantized, name)
        return LayerWeights(described, values, partial(read_tensor, self._quantized)), steps
