"""`RoundedLayer`: a layer whose matrices are replaced by rounded ones, one input group after another.

Folds a group's channel scale, free at run time, into what feeds the group, as the layer's description says: a norm, or
the rows of a matrix that is rounded already, of which only the scales change, by powers of two, so exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.architecture.blocks import Block, Fold, InputGroup, NormFold, RowFold
from q3edge.architecture.layer import Layer
from q3edge.calibration.layers.input_group import Solution, TensorReport, solve_input_group
from q3edge.calibration.rounding.channel_scaling import by_row, nearest_foldable
from q3edge.calibration.rounding.grid import stored_scales
from q3edge.calibration.rounding.moments import Moments
from q3edge.checkpoint.source import WeightSource
from q3edge.progress import Advance, unheard
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.weights import LayerWeights, read_tensor


@dataclass(frozen=True, slots=True)
class ReconstructionReport:
    """Gain of training a whole layer: squared error of its output against the float model's, on held-out tokens.

    Losses are relative to the float output's square; they are equal where training was not kept. moved_codes: share of
    the codes that changed. rate: share of the usual learning rates that was used, 0 where none helped.
    """

    loss_before: float
    loss_after: float
    moved_codes: float
    rate: float


@dataclass(frozen=True, slots=True)
class ExpertsReport:
    """Report of a block of experts: how many calibration tokens were routed to each, held-out ones included.

    agreement: share of the experts, of all tokens, that the router of the float model chooses too.
    """

    tokens: tuple[int, ...]
    agreement: float


@dataclass(frozen=True, slots=True, eq=False)
class LayerResult:
    """A finished layer by tensor name: rounded matrices, and float tensors that changed by folding or training.

    `reports` describe the matrices as they were solved; `reconstruction` the training after that, if there was any;
    `experts` the routing, where there is one.
    """

    tensors: Mapping[str, QuantizedTensor]
    floats: Mapping[str, NDArray[np.float32]]
    reports: Mapping[str, TensorReport]
    reconstruction: ReconstructionReport | None = None
    experts: ExpertsReport | None = None


def dequantize_layer(source: WeightSource, layer: int, result: LayerResult) -> LayerWeights:
    """Read a layer as float32 weights: dequantized, scaled, or as they are in `source`."""

    def read(name: str) -> torch.Tensor:
        if name in result.tensors:
            return torch.from_numpy(result.tensors[name].dequantize())
        return torch.from_numpy(result.floats[name] if name in result.floats else source.read(name))

    return LayerWeights.by(read, Layer.of(source.config, layer))


class RoundedLayer:
    """A layer while it is rounded: `weights` are its current values, float32, `layer` is its description.

    Rounded matrices are dequantized in `weights`; those of released groups are empty.
    """

    def __init__(self, source: WeightSource, number: int, schemes: Mapping[str, Scheme | None]) -> None:
        """Read layer `number`; `schemes` of all tensors of the model by name; None: it stays float."""
        self._source, self._schemes = source, schemes
        self.weights = LayerWeights.read(source, number)
        self.layer = self.weights.layer
        self._tensors: dict[str, QuantizedTensor] = {}
        self._floats: dict[str, NDArray[np.float32]] = {}
        self._reports: dict[str, TensorReport] = {}
        self._factors: dict[str, torch.Tensor] = {}  # channel scales other than ones, by field that they multiply
        self._divisors: dict[str, torch.Tensor] = {}  # and by the norm, or the matrix whose rows, they divide

    @property
    def result(self) -> LayerResult:
        """Result so far."""
        return LayerResult(self._tensors, self._floats, self._reports)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "weights": None}  # made anew of what else is there, with the source's own files

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.weights = dequantize_layer(self._source, self.layer.number, self.result)

    def schemes_of(self, group: InputGroup) -> dict[str, Scheme]:
        """Schemes of the group's matrices that do not stay float, by field."""
        wanted = {field: self._schemes[self.layer.name(field)] for field in group.matrices}
        return {field: scheme for field, scheme in wanted.items() if scheme is not None}

    def round(self, group: InputGroup, moments: Moments, advance: Advance = unheard) -> torch.Tensor:
        """Round the matrices of a group that have a scheme, for inputs of these moments, and fold the channel scale.

        Returns the channel scale [K]: inputs that were computed before are to be divided by it. advance: as for
        `solve_input_group`.
        """
        schemes = self.schemes_of(group)
        solution = self._solve(group, schemes, moments, advance)
        for field in group.matrices:
            if field in schemes:
                self._replace(field, torch.from_numpy(solution.tensors[field].dequantize()))
        self.keep(group, solution)
        return solution.channel_scale

    def keep(self, group: InputGroup, solution: Solution) -> None:
        """Keep a group's rounded matrices, and fold its channel scale, if it has one of its own.

        Matrices that stay float share the input, so they are scaled with the others.
        """
        for field, tensor in solution.tensors.items():
            name = self.layer.name(field)
            self._tensors[name], self._reports[name] = tensor, solution.reports[field]
        if group.fold is not None:
            self._scale(group.matrices, group.fold, solution.channel_scale)
        for field in group.matrices:
            if field not in solution.tensors and field in self._factors:
                self._set_float(field, self.scaled(field))

    def scale_experts(self, block: Block, channel_scale: torch.Tensor) -> None:
        """Scale the input of all of a block's experts and of its router by [K], and fold that into the norm before."""
        assert block.router is not None
        fields = [field for first, *_ in block.experts for field in first.matrices]
        self._scale([block.router, *fields], NormFold(block.norm), channel_scale)
        if block.router in self._factors:
            self._set_float(block.router, self.scaled(block.router))

    def _scale(self, fields: Iterable[str], fold: Fold, channel_scale: torch.Tensor) -> None:
        """Note that the input channels of some matrices are scaled by [K], and fold that into what feeds them."""
        if (channel_scale != 1).any():
            self._factors.update(dict.fromkeys(fields, channel_scale))
            self._fold(fold, channel_scale)

    def release(self, group: InputGroup) -> None:
        """Release the matrices of a group that no later one needs, so that memory is bounded by one group."""
        self.weights = self.weights.replaced(dict.fromkeys(group.matrices, torch.empty(0)))

    def scaled_layer(self) -> LayerWeights:
        """Build the float layer that the rounded one stands for: the same function, channel scales folded in."""
        fields = {self.layer.name(field): field for field in self.layer.tensors}
        return LayerWeights.by(lambda name: self.scaled(fields[name]), self.layer)

    def scaled(self, field: str) -> torch.Tensor:
        """Read a float tensor of the layer, with the channel scales that are folded so far."""
        values = read_tensor(self._source, self.layer.name(field))
        if field in self._factors:
            values = values * self._factors[field]
        return values / self._divisors[field] if field in self._divisors else values

    def _solve(self, group: InputGroup, schemes: Mapping[str, Scheme], moments: Moments, advance: Advance) -> Solution:
        if not schemes:
            return Solution({}, torch.ones(self.weights[group.matrices[0]].shape[1]), {})
        matrices = {field: self.weights[field] for field in schemes}
        return solve_input_group(matrices, schemes, moments, partial(nearest_foldable, fold=group.fold), advance)

    def _fold(self, fold: Fold, channel_scale: torch.Tensor) -> None:
        match fold:
            case NormFold(norm):
                self._divisors[norm] = channel_scale
                self._set_float(norm, self.weights[norm] / channel_scale)
            case RowFold(matrix):
                self._divisors[matrix] = by_row(channel_scale, fold).unsqueeze(-1)
                self._divide_rows(matrix, self._divisors[matrix])

    def _divide_rows(self, field: str, divisor: torch.Tensor) -> None:
        """Divide the rows of a matrix by powers of two [N, 1]: only the scales of a rounded one change, and exactly."""
        name = self.layer.name(field)
        if name not in self._tensors:
            values = self.scaled(field) if field in self.layer.of_experts else self.weights[field] / divisor
            self._set_float(field, values)
            return
        tensor = self._tensors[name]
        scales = stored_scales(torch.from_numpy(tensor.scales).float() / divisor, tensor.scheme)
        self._tensors[name] = dataclasses.replace(tensor, scales=scales.numpy().astype(tensor.scheme.scale_dtype))

    def _set_float(self, field: str, values: torch.Tensor) -> None:
        self._floats[self.layer.name(field)] = values.numpy()
        self._replace(field, values)

    def _replace(self, field: str, values: torch.Tensor) -> None:
        if field not in self.layer.of_experts:  # they are not kept
            self.weights = self.weights.replaced({field: values})
