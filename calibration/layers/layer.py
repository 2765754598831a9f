"""One decoder layer: four stages in the order of the forward pass, each seeing what the rounded ones before it give.

q/k/v -> o -> gate/up -> down. A stage's balance is folded, free at run time, into what feeds it: the norm before q/k/v
and gate/up, the rows of v before o, the rows of up before down. The last two only scale what is rounded already, by
powers of two, so exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import linear

from q3edge.calibration.layers.stage import Solution, TensorReport, solve_stage
from q3edge.calibration.layers.streams import Stream, Tokens
from q3edge.calibration.layers.units import STAGE_FIELDS
from q3edge.calibration.rounding.balance import foldable
from q3edge.calibration.rounding.grid import stored_scales
from q3edge.calibration.rounding.moments import Moments
from q3edge.checkpoint.source import WeightSource
from q3edge.progress import Advance
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.layer import LayerWeights, attention_context, gated_product, normalize, tensor_name
from q3edge.reference.rotary import RotaryTables

_Inputs = Callable[[slice], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What training the whole layer bought: squared error of its output for the float model's, on held-out tokens.

    Relative to the float model's; both are alike where nothing was kept. moved_codes: share of the codes that changed.
    rate: share of the usual rates that it took, 0 where none helped.
    """

    loss_before: float
    loss_after: float
    moved_codes: float
    rate: float


@dataclass(frozen=True, slots=True, eq=False)
class LayerResult:
    """A finished layer by tensor name: rounded matrices, and float tensors that a balance was folded into.

    reports are of the matrices as they were solved; `reconstruction`, if the layer was trained afterwards, of that.
    """

    tensors: Mapping[str, QuantizedTensor]
    floats: Mapping[str, NDArray[np.float32]]
    reports: Mapping[str, TensorReport]
    reconstruction: Reconstruction | None = None


class LayerSolver:
    """Solves one layer; hidden states are read from one stream and written to another."""

    def __init__(
        self,
        source: WeightSource,
        layer: int,
        schemes: Mapping[str, Scheme | None],
        tokens: Tokens,
        folder: Path,
        advance: Advance,
    ) -> None:
        """`folder` holds what is spilled meanwhile; `advance` is told 1 after every stage."""
        self._source, self._config, self._layer, self._schemes = source, source.config, layer, schemes
        self._tokens, self._folder, self._advance = tokens, folder, advance
        self._weights = LayerWeights.read(source, layer)  # replaced one by one by what is rounded
        self._rotary = RotaryTables.of(source.config, tokens.length)
        self._tensors: dict[str, QuantizedTensor] = {}
        self._floats: dict[str, NDArray[np.float32]] = {}
        self._reports: dict[str, TensorReport] = {}
        self._balances: dict[str, torch.Tensor] = {}  # by role

    def solve(self, before: Stream, after: Stream) -> LayerResult:
        """The four stages: hidden states `before` the layer in, `after` it out."""
        config = self._config
        context = self._stream("context", config.num_attention_heads * config.head_dim)
        middle = self._stream("middle", config.hidden_size)
        product = self._stream("product", config.intermediate_size)
        self._solve_qkv(before)
        divisor = self._solve_o(before, context)
        self._solve_gate_up(before, context, divisor, middle)
        context.delete()
        divisor = self._solve_down(middle, product)
        self._write_output(middle, product, divisor, after)
        middle.delete()
        product.delete()
        return LayerResult(self._tensors, self._floats, self._reports)

    def balanced(self) -> LayerWeights:
        """The float layer that the solved one stands for: the same function, with all that is folded folded in."""
        weights = LayerWeights.read(self._source, self._layer)
        changed = {
            field: getattr(weights, field) * self._balances[role]
            for role, stage in STAGE_FIELDS.items()
            for field in stage
        }
        changed["v_proj"] /= self._by_value_row(self._balances["o"]).unsqueeze(-1)
        changed["up_proj"] /= self._balances["down"].unsqueeze(-1)
        changed["input_layernorm"] = weights.input_layernorm / self._balances["qkv"]
        changed["post_attention_layernorm"] = weights.post_attention_layernorm / self._balances["gate_up"]
        return dataclasses.replace(weights, **changed)

    def _solve_qkv(self, before: Stream) -> None:
        def inputs(part: slice) -> torch.Tensor:
            return self._normed(before.read(part), "input_layernorm")

        self._fold_into_norm("input_layernorm", self._stage("qkv", inputs))

    def _solve_o(self, before: Stream, context: Stream) -> torch.Tensor:
        """Returns what `context` is still to be divided by, [heads * head_dim]."""

        def inputs(part: slice) -> torch.Tensor:
            normed = self._normed(before.read(part), "input_layernorm")
            values = attention_context(normed, self._weights, self._config, self._rotary).float()
            context.write(part, values)
            return values

        balance = self._stage("o", inputs)
        self._fold_into_rows("v_proj", self._by_value_row(balance))
        self._release("qkv")
        return balance

    def _solve_gate_up(self, before: Stream, context: Stream, divisor: torch.Tensor, middle: Stream) -> None:
        def inputs(part: slice) -> torch.Tensor:
            hidden = before.read(part) + linear(context.read(part) / divisor, self._weights.o_proj)
            middle.write(part, hidden)
            return self._normed(hidden, "post_attention_layernorm")

        self._fold_into_norm("post_attention_layernorm", self._stage("gate_up", inputs))
        self._release("o")

    def _solve_down(self, middle: Stream, product: Stream) -> torch.Tensor:
        """Returns what `product` is still to be divided by, [intermediate_size]."""

        def inputs(part: slice) -> torch.Tensor:
            normed = self._normed(middle.read(part), "post_attention_layernorm")
            values = gated_product(normed, self._weights).float()
            product.write(part, values)
            return values

        balance = self._stage("down", inputs)
        self._fold_into_rows("up_proj", balance)
        self._release("gate_up")
        return balance

    def _write_output(self, middle: Stream, product: Stream, divisor: torch.Tensor, after: Stream) -> None:
        def output(part: slice) -> None:
            after.write(part, middle.read(part) + linear(product.read(part) / divisor, self._weights.down_proj))

        for _ in self._tokens.map(output):
            pass

    def _stage(self, role: str, inputs: _Inputs) -> torch.Tensor:
        """Round the matrices of a stage that have a scheme for what `inputs` gives; returns the balance [K]."""
        fields = STAGE_FIELDS[role]
        width = getattr(self._weights, fields[0]).shape[1]
        wanted = {field: self._schemes[tensor_name(self._layer, field)] for field in fields}
        schemes = {field: scheme for field, scheme in wanted.items() if scheme is not None}
        rounds_inputs = any(scheme.activations != "float" for scheme in schemes.values())
        moments = Moments.empty(width, keeps_samples=rounds_inputs)
        for part, values in self._tokens.map(inputs):
            if schemes:  # a stage that stays float still has to pass its inputs on
                moments.add(values.flatten(0, 1), held_out=self._tokens.is_held_out(part))
        allowed = partial(foldable, role=role, config=self._config)
        solution = (
            solve_stage({field: getattr(self._weights, field) for field in schemes}, schemes, moments, allowed)
            if schemes
            else Solution({}, torch.ones(width), {})
        )
        for field in fields:
            if field in schemes:
                name = tensor_name(self._layer, field)
                self._tensors[name], self._reports[name] = solution.tensors[field], solution.reports[field]
                self._replace(field, torch.from_numpy(solution.tensors[field].dequantize()))
            elif (solution.balance != 1).any():  # it shares the input, so it has to be balanced with the others
                self._set_float(field, getattr(self._weights, field) * solution.balance)
        self._advance(1)
        self._balances[role] = solution.balance
        return solution.balance

    def _fold_into_norm(self, field: str, balance: torch.Tensor) -> None:
        if (balance != 1).any():
            self._set_float(field, getattr(self._weights, field) / balance)

    def _fold_into_rows(self, field: str, balance: torch.Tensor) -> None:
        """Divide the rows of v or up by powers of two: only the scales of a rounded matrix change, and exactly."""
        name = tensor_name(self._layer, field)
        divisor = balance.unsqueeze(-1)
        if name in self._tensors:
            tensor = self._tensors[name]
            scales = stored_scales(torch.from_numpy(tensor.scales).float() / divisor, tensor.scheme)
            self._tensors[name] = dataclasses.replace(tensor, scales=scales.numpy().astype(np.float16))
        elif (balance != 1).any():
            self._set_float(field, getattr(self._weights, field) / divisor)

    def _by_value_row(self, balance: torch.Tensor) -> torch.Tensor:
        """The balance of o's input by row of v: all query heads that share a value head have the same."""
        heads = balance.view(self._config.num_key_value_heads, -1, self._config.head_dim)
        return heads[:, 0].reshape(-1)

    def _normed(self, hidden: torch.Tensor, field: str) -> torch.Tensor:
        return normalize(hidden, getattr(self._weights, field), self._config)

    def _set_float(self, field: str, values: torch.Tensor) -> None:
        self._floats[tensor_name(self._layer, field)] = values.numpy()
        self._replace(field, values)

    def _replace(self, field: str, values: torch.Tensor) -> None:
        self._weights = dataclasses.replace(self._weights, **{field: values})

    def _release(self, role: str) -> None:
        """Forget matrices that no later stage needs: memory stays at what one stage holds."""
        self._weights = dataclasses.replace(self._weights, **dict.fromkeys(STAGE_FIELDS[role], torch.empty(0)))

    def _stream(self, name: str, width: int) -> Stream:
        return Stream(self._folder / f"{name}.bin", self._tokens, width)
