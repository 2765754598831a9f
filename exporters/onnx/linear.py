"""Matrices of the model as ONNX operators: linear layers, experts, the embedding, and their weights on disk.

Chooses the operator of a `Scheme` and the layout of its weights; the forward pass is in `decoder`.
Operators: onnxruntime's contrib schemas MatMulNBits, MatMulIntegerToFloat, FusedMatMul, QMoE, MoE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from q3edge.architecture.layer import Layer
from q3edge.architecture.tensors import tensor_shapes
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import UsageError
from q3edge.exporters.onnx.block_weights import BlockWeights, looked_up, widened_scales
from q3edge.exporters.onnx.builder import MICROSOFT, GraphBuilder
from q3edge.exporters.onnx.expert_matrices import ExpertMatrices, expert_matrices
from q3edge.exporters.onnx.external_data import DataLayout
from q3edge.exporters.onnx.stored import TensorSpec, block_specs, expert_specs, float_specs, int8_specs, label_of
from q3edge.progress import Advance
from q3edge.quantization.packing import pack_blocks, pack_zero_points
from q3edge.quantization.scales import split_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor, rows_in_turn

_BLOCK_WEIGHTS = 1 << 22  # weights in memory at a time
_INT8_RANGE = 127.0
_SMALLEST_MAX = 1e-30  # keeps an all-zero token from dividing by zero
_EXPERTS: dict[str, Any] = {
    "activation_type": "swiglu", "activation_alpha": 1.0, "activation_beta": 0.0,  # silu(gate) * up
    "swiglu_fusion": 1,  # rows of gate and up in turn
    "normalize_routing_weights": 1,  # the CPU's kernels do so anyway
}  # fmt: skip


class Matrices:
    """Builder of linear layers and the embedding in a graph; each weight is read once and stored once."""

    def __init__(
        self, builder: GraphBuilder, source: WeightSource, data: DataLayout, accuracy_level: int, advance: Advance
    ) -> None:
        self._builder, self._source, self._data = builder, source, data
        self._accuracy_level, self._advance = accuracy_level, advance
        self._shapes = tensor_shapes(source.config)
        self._block_weights: dict[str, BlockWeights] = {}
        self._float_weights: dict[str, ir.Value] = {}

    def vector(self, name: str) -> ir.Value:
        """Add a norm's weight, float32, inside the model file."""
        values = self._source.read(name)
        self._advance(values.size)
        return self._builder.initializer(ir.tensor(values, name=name))

    def embedding(self, name: str, ids: ir.Value) -> ir.Value:
        """Look up rows of the embedding `name`: int64 [...] -> float32 [..., K]."""
        scheme = self._source.scheme(name)
        if scheme is None:
            # Not Gather: where a norm and a sum read its output, OpenVINO's execution provider makes a cycle of them.
            rows = self._builder.op("Unsqueeze", ids, self._builder.int64(-1))
            return self._builder.op("GatherND", self._store_float((name,)), rows)
        if scheme.group_size is None:
            raise UsageError(f"{name}: {scheme.label()} is for linear layers; give the embedding a group_size")
        return looked_up(self._builder, self._store_blocks((name,), scheme), scheme, self._shapes[name][1], ids)

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        """Multiply x @ W.T for one weight: float32 [..., K] -> [..., N]."""
        return self._multiply(x, (name,))

    def linears(self, x: ir.Value, names: Sequence[str]) -> tuple[ir.Value, ...]:
        """Multiply one input by several weights, with a single operator where they share a scheme."""
        if len({self._source.scheme(name) for name in names}) > 1:
            return tuple(self.linear(x, name) for name in names)
        return self._builder.split(self._multiply(x, tuple(names)), [self._shapes[name][0] for name in names])

    def routed(self, x: ir.Value, router: ir.Value, layer: Layer, chosen: int) -> ir.Value:
        """Add a layer's experts by their own operator: the sum over the `chosen` likeliest ones of each token.

        x, result: float32 [B, S, H]; router: logits float32 [B*S, E]. Experts are weighted by their probabilities over
        the sum of those of the chosen. InputError: the operator cannot have their schemes.
        """
        found = expert_matrices(layer, self._source.scheme)
        assert found is not None, f"layer {layer.number} has no experts"
        attributes = _EXPERTS | {"k": chosen}
        if found[0].scheme is None:
            fc1, fc2 = map(self._store_float_experts, found)
            return self._builder.op("MoE", x, router, fc1, None, fc2, domain=MICROSOFT, **attributes)
        gate_up, down = map(self._store_experts, found)
        inputs = [
            *(x, router),
            *(gate_up.codes, widened_scales(self._builder, gate_up.scales), None),
            *(down.codes, widened_scales(self._builder, down.scales), None),
            *(None, None, None),  # gate and up are one
            *(gate_up.zero_points, down.zero_points),
        ]
        return self._builder.op(
            "QMoE",
            *_without_trailing_none(inputs),
            domain=MICROSOFT,
            expert_weight_bits=found[0].scheme.bits,
            block_size=found[0].scheme.group_size,
            quant_type="int",
            weights_prepacked=0,  # codes as MatMulNBits has them
            accuracy_level=self._accuracy_level,
            **attributes,
        )

    def _multiply(self, x: ir.Value, names: tuple[str, ...]) -> ir.Value:
        scheme = self._source.scheme(names[0])
        if scheme is None:
            return self._builder.op("FusedMatMul", x, self._store_float(names), domain=MICROSOFT, transB=1)
        if scheme.activations == "int8_per_token":
            return self._multiply_int8(x, names, scheme)
        weights = self._store_blocks(names, scheme)
        rows, width = self._shape(names)
        scales = widened_scales(self._builder, weights.scales)
        inputs = [x, weights.codes, scales, weights.zero_points]
        return self._builder.op(
            "MatMulNBits",
            *_without_trailing_none(inputs),
            domain=MICROSOFT,
            K=width,
            N=rows,
            bits=scheme.bits,
            block_size=scheme.group_size,
            accuracy_level=self._accuracy_level,
        )

    def _multiply_int8(self, x: ir.Value, names: tuple[str, ...], scheme: Scheme) -> ir.Value:
        """Multiply in int8 (W8A8) with one scale per token, so that a token's result is independent of the others.

        Each token is divided by its largest magnitude, rounded to 1/127ths, multiplied in integers, scaled back.
        Activations are uint8 around 128: onnxruntime has no fast kernel for int8 ones. On x86 without VNNI its uint8 x
        int8 kernel saturates, unless the session sets `session.x64quantprecision` = "1".
        """
        op = self._builder.op
        largest = op("ReduceMax", op("Abs", x), self._builder.int64(-1), keepdims=1)
        largest = op("Max", largest, self._builder.float32(_SMALLEST_MAX))
        step = self._builder.float32(1 / _INT8_RANGE)
        middle = self._builder.constant(np.array(scheme.implicit_zero_point, np.uint8))
        rounded = op("QuantizeLinear", op("Div", x, largest), step, middle)
        weights, scales = self._store_int8(names, scheme)
        product = op("MatMulIntegerToFloat", rounded, weights, step, scales, middle, domain=MICROSOFT)
        return op("Mul", product, largest)

    def _store_float(self, names: tuple[str, ...]) -> ir.Value:
        """Store weights as float32 [N, K]."""
        label = label_of(names)
        if label not in self._float_weights:
            (tensor,) = self._data.store(
                float_specs(names, self._shape(names)), ((values,) for values in self._float_blocks(_alone(names)))
            )
            self._float_weights[label] = self._builder.initializer(tensor)
        return self._float_weights[label]

    def _store_blocks(self, names: tuple[str, ...], scheme: Scheme) -> BlockWeights:
        """Store codes uint8 [N, K/G, G*bits/8], scales [N, K/G], packed zero points [N, ceil(K/G*bits/8)].

        Scales are stored as `scheme.scales` says; onnxruntime widens them when it loads the model.
        """
        label = label_of(names)
        if label not in self._block_weights:
            specs = block_specs(names, self._shape(names), scheme)
            self._block_weights[label] = self._stored_blocks(specs, self._blocks(_alone(names)), scheme)
        return self._block_weights[label]

    def _stored_blocks(
        self, specs: Sequence[TensorSpec], blocks: Iterator[QuantizedTensor], scheme: Scheme
    ) -> BlockWeights:
        codes, *stored = self._data.store(specs, (_packed(block) for block in blocks))
        parts = [self._builder.initializer(tensor) for tensor in stored]
        zero_points = None if scheme.symmetric else parts.pop()
        return BlockWeights(self._builder.initializer(codes), tuple(parts), zero_points)

    def _store_experts(self, matrices: ExpertMatrices) -> BlockWeights:
        """Store codes uint8 [E, N, K*bits/8], scales [E, N, K/G], packed zero points [E, N, ceil(K/G*bits/8)]."""
        scheme = matrices.scheme
        assert scheme is not None
        specs = expert_specs(matrices.label, matrices.experts, matrices.shape, scheme)
        blocks = (block.regrouped(scheme) for block in self._blocks(matrices.experts))
        return self._stored_blocks(specs, blocks, scheme)

    def _store_float_experts(self, matrices: ExpertMatrices) -> ir.Value:
        """Store experts as float32 [E, N, K]."""
        specs = expert_specs(matrices.label, matrices.experts, matrices.shape, None)
        (tensor,) = self._data.store(specs, ((values,) for values in self._float_blocks(matrices.experts)))
        return self._builder.initializer(tensor)

    def _store_int8(self, names: tuple[str, ...], scheme: Scheme) -> tuple[ir.Value, ir.Value]:
        """Store codes int8 [K, N] (MatMulInteger takes no transpose) and scales [N]; both as values of the graph."""
        codes, scales = self._data.store(int8_specs(names, self._shape(names), scheme), self._transposed(names, scheme))
        return self._builder.initializer(codes), widened_scales(self._builder, (self._builder.initializer(scales),))

    def _transposed(self, names: tuple[str, ...], scheme: Scheme) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield all rows as one block: a transposed matrix cannot be written before its last row is read."""
        rows, width = self._shape(names)
        codes, scales = np.empty((width, rows), np.int8), np.empty(rows, scheme.scale_dtype)
        done = 0
        for block in self._blocks(_alone(names)):
            part = slice(done, done + block.shape[0])
            codes[:, part] = (block.codes ^ np.uint8(scheme.implicit_zero_point)).view(np.int8).T
            scales[part] = block.scales[:, 0]
            done = part.stop
        yield codes, scales

    def _shape(self, names: tuple[str, ...]) -> tuple[int, int]:
        return sum(self._shapes[name][0] for name in names), self._shapes[names[0]][1]

    def _float_blocks(self, runs: Iterable[tuple[str, ...]]) -> Iterator[NDArray[np.float32]]:
        for names, rows in self._row_ranges(runs):
            yield rows_in_turn([self._source.read(name, rows) for name in names])

    def _blocks(self, runs: Iterable[tuple[str, ...]]) -> Iterator[QuantizedTensor]:
        for names, rows in self._row_ranges(runs):
            yield QuantizedTensor.in_turn([self._source.read_quantized(name, rows) for name in names])

    def _row_ranges(self, runs: Iterable[tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], slice]]:
        """Yield ranges of rows of matrices whose rows come in turn, run after run."""
        for names in runs:
            rows, width = self._shapes[names[0]]
            step = max(1, _BLOCK_WEIGHTS // (width * len(names)))
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                yield names, slice(start, stop)
                self._advance((stop - start) * width * len(names))


def _alone(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Runs of one matrix each: all rows of it before those of the next."""
    return ((name,) for name in names)


def _packed(block: QuantizedTensor) -> list[NDArray[Any]]:
    scales = split_scales(block.scales, block.scheme) if block.scheme.scales == "int8" else (block.scales,)
    parts: list[NDArray[Any]] = [pack_blocks(block), *scales]
    if block.zero_points is not None:
        parts.append(pack_zero_points(block.zero_points, block.scheme.bits))
    return parts


def _without_trailing_none(inputs: list[ir.Value | None]) -> list[ir.Value | None]:
    while inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs
