"""Shared parts of training a layer: moves, batches, gradients.

Gradients are computed piece by piece, one thread per piece, and added in order, so results do not depend on the number
of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.calibration.rounding.grid import stored_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.layer import decoder_layer
from q3edge.reference.parallel import ordered_map
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights

BATCH_TOKENS = 2048
_PIECE_TOKENS = 1024  # for one thread
_WARM_UP = 0.1  # of all batches
_FIRST_DECAY, _SECOND_DECAY = 0.9, 0.95
_EPSILON = 1e-12


class Adam:
    """Adam for one tensor (Kingma & Ba 2014, arXiv 1412.6980): moves by about 1 where gradients agree, else less."""

    def __init__(self, shape: torch.Size, second_decay: float) -> None:
        self._mean, self._square, self._decay = torch.zeros(shape), torch.zeros(shape), second_decay

    def direction(self, gradient: torch.Tensor, number: int) -> torch.Tensor:
        """Direction of the `number`-th move, counted from 1; the loss falls against it."""
        self._mean.lerp_(gradient, 1 - _FIRST_DECAY)
        self._square.lerp_(gradient.square(), 1 - self._decay)
        root = (self._square / (1 - self._decay**number)).sqrt_()
        return (self._mean / (1 - _FIRST_DECAY**number)).div_(root.add_(_EPSILON))


class Parameter:
    """One trained tensor: start * (1 + change); `scheme` is that of a matrix whose scales it holds, None for norms."""

    def __init__(self, start: torch.Tensor, scheme: Scheme | None = None) -> None:
        self.start, self._scheme = start, scheme
        self._change, self._adam = torch.zeros_like(start), Adam(start.shape, _SECOND_DECAY)

    @property
    def value(self) -> torch.Tensor:
        """Current value, float32."""
        return self.start * (1 + self._change)

    @property
    def stored(self) -> torch.Tensor:
        """Value as it would be stored, float32."""
        return self.value if self._scheme is None else stored_scales(self.value, self._scheme)

    def step(self, gradient: torch.Tensor, rate: float, number: int) -> None:
        """Move against the loss's gradient by `value`, by about `rate` (relative) at most; `number` counts from 1."""
        by_change = gradient * self.start
        self._change.sub_(self._adam.direction(by_change, number), alpha=rate)


def batches(rows: int, length: int, epochs: int, *, at_least: int = 1) -> list[NDArray[np.int64]]:
    """Row numbers of every batch of every epoch; an epoch goes through all `rows`, each of `length` tokens.

    A batch has about BATCH_TOKENS tokens, fewer where an epoch would have fewer than `at_least` batches.
    """
    order = np.random.default_rng(0).permuted(np.tile(np.arange(rows), (epochs, 1)), axis=1).ravel()
    size = max(1, min(BATCH_TOKENS // length, rows // at_least))
    return [order[start : start + size] for start in range(0, len(order), size)]


def schedule(number: int, total: int) -> float:
    """Share of the learning rate at batch `number`, from 1, of `total`: linear warm-up, then linear decay towards 0."""
    warm = max(1.0, _WARM_UP * total)
    return min(number / warm, (total - number + 1) / (total - warm + 1))


def steps_of(tensor: QuantizedTensor) -> torch.Tensor:
    """Steps of a tensor: codes minus zero points, float32 [N, K]."""
    rows, width = tensor.shape
    codes = torch.from_numpy(tensor.codes).float().view(*tensor.scales.shape, -1)
    return codes.sub_(zero_points_of(tensor).unsqueeze(-1)).view(rows, width)


def zero_points_of(tensor: QuantizedTensor) -> torch.Tensor:
    """Zero points float32 [N, K/G], also where they are implicit."""
    if tensor.zero_points is None:
        return torch.full(tensor.scales.shape, float(tensor.scheme.implicit_zero_point))
    return torch.from_numpy(tensor.zero_points).float()


def times_scales(steps: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Weights [N, K] of steps [N, K] and scales [N, K/G]."""
    return (steps.view(*scales.shape, -1) * scales.unsqueeze(-1)).view_as(steps)


def by_scales(gradient: torch.Tensor, steps: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Gradient by the scales, [N, K/G], from that by the weights, [N, K]: a scale moves all weights of its group."""
    return (gradient * steps).view(*scales.shape, -1).sum(-1)


def pieces(states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split hidden states [n, S, H] into ranges of sequences, for one thread each."""
    return torch.split(states, max(1, _PIECE_TOKENS // states.shape[1]))


def layer_gradients(
    weights: LayerWeights,
    learned: Sequence[str],
    states: tuple[torch.Tensor, torch.Tensor],
    upstream: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    config: Qwen3Config,
    rotary: RotaryTables,
    *,
    bfloat16: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute the gradients by a layer's input [n, S, H] and by its fields `learned`.

    states: the input, and what `upstream(output, it)` computes the gradient by the layer's output from; both [n, S, H].
    """
    if bfloat16:  # once for all pieces: half the memory, and the same values as by autocast
        weights = weights.replaced({name: matrix.bfloat16() for name, matrix in weights.matrices.items()})
    leaves = [weights[name].requires_grad_() for name in learned]

    def back(piece: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        x = piece[0].detach().requires_grad_()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = decoder_layer(x, weights, config, rotary)
        by_output = upstream(output.detach(), piece[1])
        return torch.autograd.grad(output, [x, *leaves], by_output, materialize_grads=True)  # experts without tokens

    by_input: list[torch.Tensor] = []
    totals: list[torch.Tensor] = []
    for first, *found in ordered_map(back, zip(pieces(states[0]), pieces(states[1]))):
        by_input.append(first)
        totals = (
            [total.add_(part) for total, part in zip(totals, found)] if totals else [part.float() for part in found]
        )
    return torch.cat(by_input), dict(zip(learned, totals))
