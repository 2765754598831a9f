"""Matrices of the model as ONNX operators: linear layers, the embedding, and their weights on disk.

Chooses the operator of a `Scheme` and the layout of its weights; the forward pass is in `decoder`.
Operators: onnxruntime's contrib schemas MatMulNBits, MatMulIntegerToFloat, FusedMatMul.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from q3edge.architecture.tensors import tensor_shapes
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import UsageError
from q3edge.exporters.onnx.block_weights import BlockWeights, looked_up, widened_scales
from q3edge.exporters.onnx.builder import MICROSOFT, GraphBuilder
from q3edge.exporters.onnx.external_data import DataLayout
from q3edge.exporters.onnx.stored import block_specs, float_specs, int8_specs, label_of
from q3edge.progress import Advance
from q3edge.quantization.packing import pack_blocks, pack_zero_points
from q3edge.quantization.scales import split_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor

_BLOCK_WEIGHTS = 1 << 22  # weights in memory at a time
_INT8_RANGE = 127.0
_SMALLEST_MAX = 1e-30  # keeps an all-zero token from dividing by zero


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
                float_specs(names, self._shape(names)), ((values,) for values in self._float_blocks(names))
            )
            self._float_weights[label] = self._builder.initializer(tensor)
        return self._float_weights[label]

    def _store_blocks(self, names: tuple[str, ...], scheme: Scheme) -> BlockWeights:
        """Store codes uint8 [N, K/G, G*bits/8], scales [N, K/G], packed zero points [N, ceil(K/G*bits/8)].

        Scales are stored as `scheme.scales` says; onnxruntime widens them when it loads the model.
        """
        label = label_of(names)
        if label not in self._block_weights:
            packed = (_packed(block) for block in self._blocks(names))
            codes, *stored = self._data.store(block_specs(names, self._shape(names), scheme), packed)
            parts = [self._builder.initializer(tensor) for tensor in stored]
            zero_points = None if scheme.symmetric else parts.pop()
            self._block_weights[label] = BlockWeights(self._builder.initializer(codes), tuple(parts), zero_points)
        return self._block_weights[label]

    def _store_int8(self, names: tuple[str, ...], scheme: Scheme) -> tuple[ir.Value, ir.Value]:
        """Store codes int8 [K, N] (MatMulInteger takes no transpose) and scales [N]; both as values of the graph."""
        codes, scales = self._data.store(int8_specs(names, self._shape(names)), self._transposed(names, scheme))
        return self._builder.initializer(codes), widened_scales(self._builder, (self._builder.initializer(scales),))

    def _transposed(self, names: tuple[str, ...], scheme: Scheme) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield all rows as one block: a transposed matrix cannot be written before its last row is read."""
        rows, width = self._shape(names)
        codes, scales = np.empty((width, rows), np.int8), np.empty(rows, np.float16)
        done = 0
        for block in self._blocks(names):
            part = slice(done, done + block.shape[0])
            codes[:, part] = (block.codes ^ np.uint8(scheme.implicit_zero_point)).view(np.int8).T
            scales[part] = block.scales[:, 0]
            done = part.stop
        yield codes, scales

    def _shape(self, names: tuple[str, ...]) -> tuple[int, int]:
        return sum(self._shapes[name][0] for name in names), self._shapes[names[0]][1]

    def _float_blocks(self, names: tuple[str, ...]) -> Iterator[NDArray[np.float32]]:
        for name, rows in self._row_ranges(names):
            yield self._source.read(name, rows)

    def _blocks(self, names: tuple[str, ...]) -> Iterator[QuantizedTensor]:
        for name, rows in self._row_ranges(names):
            yield self._source.read_quantized(name, rows)

    def _row_ranges(self, names: tuple[str, ...]) -> Iterator[tuple[str, slice]]:
        for name in names:
            rows, width = self._shapes[name]
            step = max(1, _BLOCK_WEIGHTS // width)
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                yield name, slice(start, stop)
                self._advance((stop - start) * width)


def _packed(block: QuantizedTensor) -> list[NDArray[Any]]:
    scales = (block.scales,) if block.scheme.scales == "float16" else split_scales(block.scales, block.scheme)
    parts: list[NDArray[Any]] = [pack_blocks(block), *scales]
    if block.zero_points is not None:
        parts.append(pack_zero_points(block.zero_points, block.scheme.bits))
    return parts


def _without_trailing_none(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    return list(inputs[:-1]) if inputs[-1] is None else list(inputs)
