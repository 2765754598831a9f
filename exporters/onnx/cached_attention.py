"""Attention over the KV cache: values shared by all layers (lengths, mask, rotary tables), and each layer's operator.

An embedding model has no cache: its attention is over the tokens of the pass alone.

Operator: onnxruntime's com.microsoft GroupQueryAttention. With an int8 cache a layer is an If: a step of a few tokens
runs the operator on the int8 buffers; a longer one dequantizes the past for the float operator, which is several times
faster there, and stores what is new (docs/decisions/2026-11-24-int8-kv-cache.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec, KVScales
from q3edge.exporters.onnx.builder import MICROSOFT, GraphBuilder

_MASKED = -1e9  # added to the score of a padding token: its probability becomes 0, and no infinity is involved
_FEW_TOKENS = 16  # up to here the operator on int8 buffers is not slower than dequantizing to float32
_LENGTH_AXIS = 2  # of a cache


@dataclass(frozen=True, slots=True)
class Heads:
    """Inputs and outputs of a layer's attention; query, key, value: float32 [batch_size, sequence_length, N]."""

    number: int
    query: ir.Value
    key: ir.Value
    value: ir.Value
    past: Sequence[ir.Value | None]  # key, value; None without a cache
    present: Sequence[ir.Value]


class CachedAttention:
    """Builder of attention in a graph, for all layers."""

    def __init__(
        self, config: Qwen3Config, builder: GraphBuilder, ids: ir.Value, mask: ir.Value, scales: KVScales | None
    ) -> None:
        """Add the shared values to the graph; `scales` None: the cache is float32."""
        self._config, self._builder, self._scales = config, builder, scales
        self._layers = KVCacheSpec.of(config).layers
        self._bias: ir.Value | None = None
        if config.is_embedding:
            self._real_lengths(mask)
        else:
            self._lengths(ids, mask)
        self._cos, self._sin = self._rotary_tables()

    def context(self, layer: Heads) -> ir.Value:
        """Add a layer's attention; returns weighted values, float32 [batch_size, sequence_length, heads * head_dim]."""
        output = ir.val(f"layers.{layer.number}.context")
        outputs = [output, *layer.present]
        if self._scales is None:
            self._attend(layer, layer.past, outputs)
            return output
        scales = [self._scale(layer.number, name, array) for name, array in self._by_name(self._scales)]
        prefill = self._builder.branch("prefill", lambda: self._through_float(layer, scales))
        step = self._builder.branch("step", lambda: self._on_int8(layer, scales))
        self._builder.op_into(outputs, "If", self._is_long, then_branch=prefill, else_branch=step)
        return output

    def _attend(
        self,
        layer: Heads,
        past: Sequence[ir.Value | None],
        outputs: Sequence[ir.Value],
        *scales: ir.Value,
        **attributes: object,
    ) -> None:
        self._builder.op_into(
            outputs,
            "GroupQueryAttention",
            layer.query,
            layer.key,
            layer.value,
            *past,
            self._seqlens_k,
            self._total_length,
            self._cos,
            self._sin,
            None,  # position_ids: rotary attention depends on distances only
            self._bias,
            *((self._weightless_sink(), *scales) if scales else ()),
            domain=MICROSOFT,
            num_heads=self._config.num_attention_heads,
            kv_num_heads=self._config.num_key_value_heads,
            do_rotary=1,
            **attributes,
        )

    def _on_int8(self, layer: Heads, scales: Sequence[ir.Value]) -> list[ir.Value]:
        outputs = [ir.val(f"layers.{layer.number}.step.{name}") for name in ("context", "key", "value")]
        settings = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        self._attend(layer, layer.past, outputs, *scales, **settings)
        return outputs

    def _through_float(self, layer: Heads, scales: Sequence[ir.Value]) -> list[ir.Value]:
        op, int64 = self._builder.op, self._builder.int64
        axis = int64(_LENGTH_AXIS)
        filled = [op("Slice", past, int64(0), self._past_length, axis) for past in layer.past]
        floats = [op("Mul", op("Cast", p, to=ir.DataType.FLOAT), scale) for p, scale in zip(filled, scales)]
        outputs = [ir.val(f"layers.{layer.number}.prefill.{name}") for name in ("context", "key", "value")]
        self._attend(layer, floats, outputs)
        one, zero = self._builder.float32(1.0), self._builder.constant(np.array(0, np.int8))
        stored = []
        for past, present, scale in zip(layer.past, outputs[1:], scales):
            new = op("Slice", present, self._past_length, self._total, axis)
            rounded = op("QuantizeLinear", op("Div", new, scale), one, zero)
            stored.append(op("TensorScatter", past, rounded, self._write_at, axis=_LENGTH_AXIS))
        return [outputs[0], *stored]

    def _weightless_sink(self) -> ir.Value:
        """Head sink that takes no probability: with one, onnxruntime does not tile, which is faster for one token."""
        return self._builder.constant(np.full(self._config.num_attention_heads, _MASKED, np.float32))

    def _scale(self, layer: int, name: str, array: NDArray[np.float32]) -> ir.Value:
        values = array[self._layers.index(layer)][None, :, None]  # [1, kv_heads, 1, head_dim]
        return self._builder.initializer(ir.tensor(values, name=f"layers.{layer}.{name}_scale"))

    @staticmethod
    def _by_name(scales: KVScales) -> list[tuple[str, NDArray[np.float32]]]:
        return [("key", scales.keys), ("value", scales.values)]

    def _lengths(self, ids: ir.Value, mask: ir.Value) -> None:
        """Add lengths and mask, by one formula for single rows, right padding and left padding.

        Keys are stored at their positions, so left padding occupies the cache and is masked; right padding lies
        after seqlens_k and is never read. Several tokens per row after a past are for one row only: the operator
        refuses more (its input query_seqlens would allow them, but needs onnxruntime 1.32).
        """
        op, int64 = self._builder.op, self._builder.int64
        with self._builder.scope("attention_mask"):
            leading = op("Equal", op("CumSum", mask, self._builder.constant(np.array(1, np.int64))), int64(0))
            occupied = op("Add", mask, op("Cast", leading, to=ir.DataType.INT64))
            length = op("ReduceSum", occupied, int64(1), keepdims=0)
            self._set_lengths(length, mask)
            row = op("Where", leading, self._builder.float32(_MASKED), self._builder.float32(0.0))
            batch, new = op("Shape", ids, start=0, end=1), op("Shape", ids, start=1)
            shape = op("Concat", batch, int64(1), new, self._total, axis=0)
            self._bias = op("Expand", op("Unsqueeze", row, int64(1, 2)), shape)
            if self._scales is not None:
                self._past_length = op("Sub", self._total, new)  # int64 [1]
                self._write_at = op("Expand", self._past_length, batch)  # int64 [batch_size]
                self._is_long = op("Greater", op("Squeeze", new), self._builder.constant(np.array(_FEW_TOKENS)))

    def _real_lengths(self, mask: ir.Value) -> None:
        """Add lengths of rows with padding on the right alone: a bias would take memory for all pairs of tokens."""
        with self._builder.scope("attention_mask"):
            self._set_lengths(self._builder.op("ReduceSum", mask, self._builder.int64(1), keepdims=0), mask)

    def _set_lengths(self, length: ir.Value, mask: ir.Value) -> None:
        """Add lengths as the operator wants them, from those of rows, int64 [batch_size], and the mask's."""
        op, int64 = self._builder.op, self._builder.int64
        self._seqlens_k = op("Cast", op("Sub", length, int64(1)), to=ir.DataType.INT32)  # [batch_size]
        self._total = op("Shape", mask, start=1, end=2)  # int64 [1]
        self._total_length = op("Cast", op("Squeeze", self._total), to=ir.DataType.INT32)  # int32 []

    def _rotary_tables(self) -> tuple[ir.Value, ir.Value]:
        """Add tables of cos and sin of position x frequency, float32 [context_length, head_dim / 2].

        They are computed from constants, which onnxruntime folds, so they take no space on disk.
        """
        op, scalar = self._builder.op, self._builder.float32
        rope = self._config.rope
        with self._builder.scope("rotary_embedding"):
            frequencies = self._builder.constant(rope.inverse_frequencies(self._config.head_dim)[None, :])
            positions = op("Range", scalar(0.0), scalar(float(self._config.context_length)), scalar(1.0))
            angles = op("Mul", op("Unsqueeze", positions, self._builder.int64(1)), frequencies)
            cos, sin = op("Cos", angles), op("Sin", angles)
            if rope.attention_factor == 1.0:
                return cos, sin
            factor = scalar(rope.attention_factor)
            return op("Mul", cos, factor), op("Mul", sin, factor)
