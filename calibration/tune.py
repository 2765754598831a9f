"""Tuning: codes stay, scales and norms are trained until the model's predictions come closest to the float model's.

The loss is the KL divergence of the logits (as in mlx-lm's DWQ), the optimizer Adam on relative changes of each scale.
Back-propagation goes layer by layer: a layer's weights are read, used forward, and read again on the way back, so
memory is one layer, the scales with their optimizer state, and the hidden states of one batch at every layer.
Whether it helped is decided on held-out tokens; where it did not, nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.grid import storable_scales
from q3edge.progress import Progress
from q3edge.reference.layer import LayerWeights, decoder_layer, normalize, tensor_name
from q3edge.reference.model import LogitsHead, embed, hidden_states
from q3edge.reference.parallel import ordered_map
from q3edge.reference.rotary import RotaryTables
from q3edge.tensor import QuantizedTensor
from q3edge.weights import FINAL_NORM, WeightSource

BATCH_TOKENS = 2048
EPOCHS = 2
RATE = 1e-3  # largest relative change of a scale in one step
_WARM_UP = 0.1  # of all steps
_CHECKS = 4  # per epoch, on held-out tokens
_PIECE_TOKENS = 1024  # for one thread
_LOGITS_AT_ONCE = 128  # tokens
_BETAS = (0.9, 0.95)
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """New float16 scales [N, K/G] and float32 norms by tensor name; KL in nats on held-out tokens before and after."""

    scales: Mapping[str, NDArray[np.float16]]
    norms: Mapping[str, NDArray[np.float32]]
    kl_before: float
    kl_after: float
    steps: int


class _Parameter:
    """One trained tensor: start * (1 + change), and Adam's averages (Kingma & Ba 2014, arXiv 1412.6980)."""

    def __init__(self, start: torch.Tensor, *, stored_as_float16: bool) -> None:
        self.start, self._half = start, stored_as_float16
        self._change = torch.zeros_like(start)
        self._mean, self._square = torch.zeros_like(start), torch.zeros_like(start)

    @property
    def value(self) -> torch.Tensor:
        """As it would be stored, float32."""
        value = self.start * (1 + self._change)
        return storable_scales(value) if self._half else value

    def step(self, gradient: torch.Tensor, rate: float, number: int) -> None:
        """Move against the gradient of the loss by `value`; `number` counts from 1."""
        gradient = gradient * self.start  # of the loss by the relative change
        self._mean.lerp_(gradient, 1 - _BETAS[0])
        self._square.lerp_(gradient.square(), 1 - _BETAS[1])
        mean = self._mean / (1 - _BETAS[0] ** number)
        root = (self._square / (1 - _BETAS[1] ** number)).sqrt_()
        self._change.addcdiv_(mean, root + _EPSILON, value=-rate)


class Tuner:
    """Trains the scales and norms of `quantized` towards `source`, the float model it was made from."""

    def __init__(
        self, source: WeightSource, quantized: WeightSource, token_ids: NDArray[np.int64], held_out: int
    ) -> None:
        """token_ids: int64 [sequences, length], the last `held_out` of which judge."""
        self._quantized, self._config = quantized, quantized.config
        self._ids, self._train = token_ids, len(token_ids) - held_out
        self._rotary = RotaryTables.of(self._config, token_ids.shape[1])
        self._float_head, self._head = LogitsHead(source), LogitsHead(quantized)
        self._source = source
        self._parameters: dict[str, _Parameter] = {}
        for layer in range(self._config.num_hidden_layers):
            for field in fields(LayerWeights):
                self._add(tensor_name(layer, field.name))
        self._add(FINAL_NORM)

    def run(self, progress: Progress, *, epochs: int = EPOCHS, rate: float = RATE) -> Tuned:
        """Train; the state with the smallest held-out KL wins, which may be the one at the start."""
        self._target = hidden_states(self._source, self._ids, progress=progress, label="float model")
        batch = max(1, BATCH_TOKENS // self._ids.shape[1])
        order = np.random.default_rng(0).permuted(np.tile(np.arange(self._train), (epochs, 1)), axis=1).ravel()
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        every = max(1, math.ceil(len(batches) / (epochs * _CHECKS)))
        before = best = self._held_out_kl()
        kept = self._values()
        with progress.task("tune", len(batches)) as advance:
            for number, rows in enumerate(batches, 1):
                self._step(rows, rate * _schedule(number, len(batches)), number)
                if number % every == 0 or number == len(batches):
                    found = self._held_out_kl()
                    if found < best:
                        best, kept = found, self._values()
                advance(1)
        scales = {name: value for name, value in kept.items() if self._quantized.scheme(name) is not None}
        norms = {name: value.numpy() for name, value in kept.items() if name not in scales}
        halves = {name: value.numpy().astype(np.float16) for name, value in scales.items()}
        return Tuned(halves, norms, before, best, len(batches))

    def _add(self, name: str) -> None:
        """Train the scales of a rounded matrix, and a norm; a float matrix stays as it is."""
        if self._quantized.scheme(name) is not None:
            scales = torch.from_numpy(self._quantized.read_quantized(name).scales).float()
            self._parameters[name] = _Parameter(scales, stored_as_float16=True)
        elif name.endswith("norm.weight"):
            self._parameters[name] = _Parameter(torch.from_numpy(self._quantized.read(name)), stored_as_float16=False)

    def _values(self) -> dict[str, torch.Tensor]:
        return {name: parameter.value for name, parameter in self._parameters.items()}

    def _held_out_kl(self) -> float:
        """Mean KL on held-out tokens in nats."""
        rows = np.arange(self._train, len(self._ids))
        batch = max(1, BATCH_TOKENS // self._ids.shape[1])
        parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        return sum(self._compare(part, self._forward(part, keep=False)[0])[0] for part in parts) / len(rows)

    def _step(self, rows: NDArray[np.int64], rate: float, number: int) -> None:
        """One batch: forward, back through head and layers, and a move of every parameter on the way."""
        hidden = self._forward(rows, keep=True)
        last = hidden.pop()
        gradient = self._compare(rows, last, learn=(rate, number))[1]
        for layer in reversed(range(self._config.num_hidden_layers)):
            gradient = self._backward(layer, hidden.pop(), gradient, rate, number)

    def _forward(self, rows: NDArray[np.int64], *, keep: bool) -> list[torch.Tensor]:
        """Hidden states [n, S, H] before every layer and after the last; only the last where not `keep`."""
        states = [embed(self._quantized, self._ids[rows])]
        for layer in range(self._config.num_hidden_layers):
            weights = self._layer(layer)[0]
            forward = partial(decoder_layer, weights=weights, config=self._config, rotary=self._rotary)
            output = torch.cat(list(ordered_map(torch.no_grad()(forward), _pieces(states[-1]))))
            states = [*states, output] if keep else [output]
        return states

    def _compare(
        self, rows: NDArray[np.int64], last: torch.Tensor, learn: tuple[float, int] | None = None
    ) -> tuple[float, torch.Tensor]:
        """KL per token, summed over sequences, and where `learn` its gradient by `last`, hidden states [n, S, H]."""
        norm = self._parameters[FINAL_NORM].value.requires_grad_(learn is not None)
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
        """Gradient by the layer's input from that by its output; its parameters are moved."""
        weights, steps = self._layer(layer)
        learned = [f.name for f in fields(LayerWeights) if tensor_name(layer, f.name) in self._parameters]
        leaves = [getattr(weights, name).requires_grad_() for name in learned]

        def back(piece: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
            x = piece[0].detach().requires_grad_()
            with torch.enable_grad():
                output = decoder_layer(x, weights, self._config, self._rotary)
            by_input, *found = torch.autograd.grad(output, [x, *leaves], piece[1])
            for index, name in enumerate(learned):
                if name in steps:  # a scale moves all weights of its group
                    size = self._parameters[tensor_name(layer, name)].start.shape
                    found[index] = found[index].mul_(steps[name]).view(*size, -1).sum(-1)
            return [by_input, *found]

        results = list(ordered_map(back, zip(_pieces(hidden), _pieces(gradient))))
        for index, name in enumerate(learned, 1):
            total = torch.stack([result[index] for result in results]).sum(0)
            self._parameters[tensor_name(layer, name)].step(total, rate, number)
        return torch.cat([result[0] for result in results])

    def _layer(self, layer: int) -> tuple[LayerWeights, dict[str, torch.Tensor]]:
        """float32 weights with the parameters as they are now, and the steps [N, K] of every rounded matrix."""
        values, steps = {}, {}
        for field in fields(LayerWeights):
            name = tensor_name(layer, field.name)
            if self._quantized.scheme(name) is not None:
                steps[field.name] = _steps(self._quantized.read_quantized(name))
                values[field.name] = _times_scales(steps[field.name], self._parameters[name].value)
            elif name in self._parameters:
                values[field.name] = self._parameters[name].value
            else:
                values[field.name] = torch.from_numpy(self._quantized.read(name))
        return LayerWeights(**values), steps


def _steps(tensor: QuantizedTensor) -> torch.Tensor:
    """Codes minus zero points, float32 [N, K]."""
    rows, width = tensor.shape
    codes = torch.from_numpy(tensor.codes).float().view(*tensor.scales.shape, -1)
    if tensor.zero_points is None:
        codes -= tensor.scheme.implicit_zero_point
    else:
        codes -= torch.from_numpy(tensor.zero_points).float().unsqueeze(-1)
    return codes.view(rows, width)


def _times_scales(steps: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (steps.view(*scales.shape, -1) * scales.unsqueeze(-1)).view_as(steps)


def _pieces(states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[n, S, H] in ranges of sequences for one thread each."""
    return torch.split(states, max(1, _PIECE_TOKENS // states.shape[1]))


def _schedule(number: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to a tenth."""
    warm = max(1.0, _WARM_UP * total)
    if number < warm:
        return number / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (number - warm) / max(1.0, total - warm)))
