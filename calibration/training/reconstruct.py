"""Reconstruction: a solved layer is trained to bring its output closer to the float model's after that layer.

GPTQ keeps the output of each matrix. Here all of a layer is trained together, codes, scales and norms, and the error of
the layers before is compensated too: the input is the rounded model's, the target the float model's. As in AutoRound
(Cheng et al. 2023, arXiv 2309.05516) a weight moves by its gradient as if it were not rounded, and its code follows
when it crosses the middle between two; codes start at GPTQ's. Whether it helped is decided on held-out tokens; where it
did not, the layer stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from q3edge.architecture.config import Qwen3Config
from q3edge.calibration.layers.rounded import LayerResult, ReconstructionReport
from q3edge.calibration.layers.streams import StateStream, Tokens
from q3edge.calibration.training.trained_layer import (
    Adam,
    Parameter,
    batches,
    by_scales,
    layer_gradients,
    schedule,
    steps_of,
    times_scales,
    zero_points_of,
)
from q3edge.progress import Advance, portion, unheard
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.layer import decoder_layer
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights

EPOCHS = 4
TRAINING_STEPS = 1000  # of progress, in all epochs
_BATCHES = 28  # in an epoch, at least: as many as 64k tokens give
CODE_RATE = 5e-3  # of the distance between two codes: how far a weight moves in a batch, at most; scales move it as far
_CODE_DECAY = 0.999  # of the mean squared gradient in a weight's Adam
NORM_RATE = 2.5e-4  # largest relative change of a norm in one batch
_SHARES = (1.0, 0.5)  # of all rates: where a few tokens are overfitted, a smaller one may help
_LEANING = 0.45  # of that distance: how far from its code a weight starts at most, so that GPTQ's codes are the first


class _Layer:
    """A rounded layer in training; `wanted` is the float layer that `tensors` (name -> [N, K]) stand for."""

    def __init__(self, tensors: Mapping[str, QuantizedTensor], wanted: LayerWeights) -> None:
        self._layer = wanted.layer
        names = {field: self._layer.name(field) for field in self._layer.tensors}
        self._codes = {field: _Codes(tensors[name], wanted[field]) for field, name in names.items() if name in tensors}
        self._norms = {field: Parameter(wanted[field]) for field in names if field.endswith("norm")}
        self._rest = wanted.replaced(dict.fromkeys(self.learned, torch.empty(0)))

    @property
    def learned(self) -> list[str]:
        """Fields of the layer that are trained."""
        return [*self._codes, *self._norms]

    @property
    def weights(self) -> LayerWeights:
        """Weights float32 of codes and unrounded scales: rounding scales would hide updates smaller than a step."""
        codes = {field: matrix.weights for field, matrix in self._codes.items()}
        return self._rest.replaced({**codes, **self._norm_values})

    @property
    def stored(self) -> LayerWeights:
        """Weights as they would be stored, float32."""
        codes = {field: torch.from_numpy(matrix.tensor.dequantize()) for field, matrix in self._codes.items()}
        return self._rest.replaced({**codes, **self._norm_values})

    @property
    def moved(self) -> float:
        """Share of the codes that have changed."""
        moved = sum(matrix.moved for matrix in self._codes.values())
        return moved / sum(matrix.count for matrix in self._codes.values())

    def step(self, gradients: Mapping[str, torch.Tensor], share: float, number: int) -> None:
        """Move against the gradients by `weights`, at a `share` of the rates; `number` of the move counts from 1."""
        for field, matrix in self._codes.items():
            matrix.step(gradients[field], share, number)
        for field, norm in self._norms.items():
            norm.step(gradients[field], share * NORM_RATE, number)

    def result(self, before: LayerResult, found: ReconstructionReport) -> LayerResult:
        """Result with the trained tensors and norms in place of those of `before`."""
        tensors = {self._layer.name(field): matrix.tensor for field, matrix in self._codes.items()}
        norms = {self._layer.name(field): norm.numpy() for field, norm in self._norm_values.items()}
        return replace(before, tensors=tensors, floats={**before.floats, **norms}, reconstruction=found)

    @property
    def _norm_values(self) -> dict[str, torch.Tensor]:
        return {field: norm.value for field, norm in self._norms.items()}


class _Codes:
    """A matrix in training: its weights divided by their group's scale, which round to codes, and the scales."""

    def __init__(self, tensor: QuantizedTensor, wanted: torch.Tensor) -> None:
        self._start = tensor
        scales, steps = torch.from_numpy(tensor.scales).float(), steps_of(tensor)
        leaning = times_scales(wanted, 1 / scales).sub_(steps).clamp_(-_LEANING, _LEANING)
        self._positions = leaning.add_(steps).view(*scales.shape, -1)
        self._scales = Parameter(scales, tensor.scheme)
        self._adam = Adam(self._positions.shape, _CODE_DECAY)
        self._lowest = -zero_points_of(tensor).unsqueeze(-1)
        self.count = tensor.codes.size

    @property
    def weights(self) -> torch.Tensor:
        """Weights float32 [N, K], on scales that are not rounded."""
        return times_scales(self._steps, self._scales.value)

    @property
    def tensor(self) -> QuantizedTensor:
        """Tensor as it would be stored."""
        codes = (self._steps.view_as(self._positions) - self._lowest).to(torch.uint8).view(self._start.shape).numpy()
        scales = self._scales.stored.numpy().astype(self._start.scheme.scale_dtype)
        return replace(self._start, codes=codes, scales=scales)

    @property
    def moved(self) -> int:
        return int((steps_of(self._start) != self._steps).sum())

    @property
    def _steps(self) -> torch.Tensor:
        highest = self._lowest + self._start.scheme.max_code
        return torch.clamp(self._positions.round(), self._lowest, highest).view(self._start.shape)

    def step(self, gradient: torch.Tensor, share: float, number: int) -> None:
        by_scale = by_scales(gradient, self._steps, self._scales.start)
        by_weight = times_scales(gradient, self._scales.start).view_as(self._positions)
        self._positions.sub_(self._adam.direction(by_weight, number), alpha=share * CODE_RATE)
        self._scales.step(by_scale, share * CODE_RATE / 2 ** (self._start.scheme.bits - 1), number)


@dataclass(frozen=True, slots=True, eq=False)
class LayerTrainer:
    """Trainer of one layer.

    before: the rounded model's hidden states before the layer; target: the float model's after it.
    """

    config: Qwen3Config
    tokens: Tokens
    before: StateStream
    target: StateStream

    def run(self, solved: LayerResult, wanted: Callable[[], LayerWeights], advance: Advance) -> LayerResult:
        """Train a solved layer; returns it improved, or unchanged but for the report if held-out tokens say so.

        `wanted` builds the float layer that `solved` stands for. `advance` is called after every batch, with
        TRAINING_STEPS in all.
        """
        result = self._train_at(solved, wanted, _SHARES[0], advance)
        for share in _SHARES[1:]:
            if result.tensors is solved.tensors:
                result = self._train_at(solved, wanted, share, unheard)
        return result

    def _train_at(
        self, solved: LayerResult, wanted: Callable[[], LayerWeights], share: float, advance: Advance
    ) -> LayerResult:
        trained = _Layer(solved.tensors, wanted())
        rotary = RotaryTables.of(self.config, self.tokens.length)
        before, power = self._held_out(trained.stored, rotary)
        self._train(trained, share, rotary, advance)
        after = self._held_out(trained.stored, rotary)[0]
        if after < before:
            return trained.result(solved, ReconstructionReport(before / power, after / power, trained.moved, share))
        return replace(solved, reconstruction=ReconstructionReport(before / power, before / power, 0.0, 0.0))

    def _train(self, trained: _Layer, share: float, rotary: RotaryTables, advance: Advance) -> None:
        rows = self.tokens.sequences - self.tokens.held_out
        planned = batches(rows, self.tokens.length, EPOCHS, at_least=_BATCHES)
        advance_batch = portion(advance, TRAINING_STEPS, len(planned))
        for number, batch in enumerate(planned, 1):
            states = self._rows(self.before, batch), self._rows(self.target, batch)
            gradients = layer_gradients(
                trained.weights, trained.learned, states, torch.sub, self.config, rotary, bfloat16=self.tokens.bfloat16
            )[1]
            trained.step(gradients, share * schedule(number, len(planned)), number)
            advance_batch(1)

    def _held_out(self, weights: LayerWeights, rotary: RotaryTables) -> tuple[float, float]:
        """Squared error of the output, and the target's square, both summed over held-out tokens."""

        def compare(part: slice) -> tuple[float, float]:
            output = decoder_layer(self.before.read(part), weights, self.config, rotary)
            target = self.target.read(part)
            return float((output - target).square().sum()), float(target.square().sum())

        found = [sums for _, sums in self.tokens.map(compare, held_out=True)]
        power = sum(power for _, power in found)
        return sum(error for error, _ in found), max(power, torch.finfo(torch.float32).tiny)

    def _rows(self, stream: StateStream, rows: np.ndarray) -> torch.Tensor:
        return torch.cat([stream.read(slice(row, row + 1)) for row in rows.tolist()])
