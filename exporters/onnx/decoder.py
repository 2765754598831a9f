"""Qwen3's forward pass as an ONNX graph, to be read from top to bottom like a model definition.

Owns the computation. Weights and their operators are `linear`'s, names of inputs and outputs `q3edge.kv_cache`'s.
Reference: transformers' Qwen3ForCausalLM; attention is onnxruntime's com.microsoft GroupQueryAttention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.onnx.builder import MICROSOFT, GraphBuilder
from exporters.onnx.linear import Matrices
from q3edge.config import Qwen3Config
from q3edge.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS, NUM_LOGITS_TO_KEEP, KVCacheSpec
from q3edge.weights import EMBEDDING, FINAL_NORM, head_tensor, layer_prefix

_MASKED = -1e9  # added to the score of a padding token: its probability becomes 0, and no infinity is involved


@dataclass(frozen=True, slots=True)
class _AttentionInputs:
    """What the attention of every layer shares."""

    seqlens_k: ir.Value  # int32 [batch_size]: index of each row's last key
    total_length: ir.Value  # int32 []
    bias: ir.Value  # float32 [batch_size, 1, sequence_length, total_sequence_length]
    cos: ir.Value  # float32 [max_position_embeddings, head_dim/2]
    sin: ir.Value


class Decoder:
    """Builds the graph of one model; `build` is the forward pass."""

    def __init__(self, config: Qwen3Config, builder: GraphBuilder, matrices: Matrices) -> None:
        self._config, self._builder, self._matrices = config, builder, matrices
        self._cache = KVCacheSpec.of(config)
        self._inputs: list[ir.Value] = []
        self._presents: list[ir.Value] = []

    def build(self) -> ir.Graph:
        """input_ids, attention_mask, past -> logits, present."""
        ids = self._input(INPUT_IDS, ir.DataType.INT64, "batch_size", "sequence_length")
        mask = self._input(ATTENTION_MASK, ir.DataType.INT64, "batch_size", "total_sequence_length")
        attention = self._attention_inputs(ids, mask)
        with self._builder.scope("embed_tokens"):
            hidden = self._matrices.embedding(EMBEDDING, ids)
        for layer in range(self._config.num_hidden_layers):
            with self._builder.scope(f"layers.{layer}"):
                hidden = self._decoder_layer(layer, hidden, attention)
        with self._builder.scope("lm_head"):
            hidden = self._rms_norm(self._kept_positions(hidden), FINAL_NORM)
            logits = self._matrices.linear(hidden, head_tensor(self._config))
        logits.name, logits.dtype = LOGITS, ir.DataType.FLOAT
        logits.shape = ir.Shape(["batch_size", "logits_length", self._config.vocab_size])
        return self._builder.graph(self._inputs, [logits, *self._presents], "qwen3")

    def _decoder_layer(self, layer: int, hidden: ir.Value, attention: _AttentionInputs) -> ir.Value:
        op, prefix = self._builder.op, layer_prefix(layer)
        with self._builder.scope("self_attn"):
            normed = self._rms_norm(hidden, f"{prefix}input_layernorm.weight")
            hidden = op("Add", hidden, self._attention(layer, normed, attention))
        with self._builder.scope("mlp"):
            normed = self._rms_norm(hidden, f"{prefix}post_attention_layernorm.weight")
            return op("Add", hidden, self._mlp(f"{prefix}mlp.", normed))

    def _attention(self, layer: int, x: ir.Value, shared: _AttentionInputs) -> ir.Value:
        prefix = f"{layer_prefix(layer)}self_attn."
        query, key, value = self._matrices.linears(x, [f"{prefix}{part}_proj.weight" for part in "qkv"])
        context = ir.val(f"{prefix}context")
        self._builder.op_into(
            [context, *self._present(layer)],
            "GroupQueryAttention",
            self._head_norm(query, f"{prefix}q_norm.weight"),
            self._head_norm(key, f"{prefix}k_norm.weight"),
            value,
            *self._past(layer),
            shared.seqlens_k,
            shared.total_length,
            shared.cos,
            shared.sin,
            None,  # position_ids: rotary attention depends on distances only
            shared.bias,
            domain=MICROSOFT,
            num_heads=self._config.num_attention_heads,
            kv_num_heads=self._config.num_key_value_heads,
            do_rotary=1,
        )
        return self._matrices.linear(context, f"{prefix}o_proj.weight")

    def _mlp(self, prefix: str, x: ir.Value) -> ir.Value:
        op = self._builder.op
        gate, up = self._matrices.linears(x, [f"{prefix}gate_proj.weight", f"{prefix}up_proj.weight"])
        silu = op("Mul", gate, op("Sigmoid", gate))
        return self._matrices.linear(op("Mul", silu, up), f"{prefix}down_proj.weight")

    def _rms_norm(self, x: ir.Value, weight: str) -> ir.Value:
        return self._builder.op(
            "SimplifiedLayerNormalization",
            x,
            self._matrices.vector(weight),
            axis=-1,
            epsilon=self._config.rms_norm_eps,
            stash_type=1,
        )

    def _head_norm(self, x: ir.Value, weight: str) -> ir.Value:
        """RMS norm of each head: [batch_size, sequence_length, heads * head_dim] in and out."""
        op, int64 = self._builder.op, self._builder.int64
        heads = op("Reshape", x, int64(0, 0, -1, self._config.head_dim))
        return op("Reshape", self._rms_norm(heads, weight), int64(0, 0, -1))

    def _attention_inputs(self, ids: ir.Value, mask: ir.Value) -> _AttentionInputs:
        """One formula for single rows, right padding and left padding.

        Keys are stored where they stand, so left padding occupies the cache and is masked; right padding lies
        behind seqlens_k and is never looked at. Several tokens per row on top of a past are for one row only: the
        operator refuses more (its input query_seqlens would allow them, but needs onnxruntime 1.32).
        """
        op, int64 = self._builder.op, self._builder.int64
        with self._builder.scope("attention_mask"):
            leading = op("Equal", op("CumSum", mask, self._builder.constant(np.array(1, np.int64))), int64(0))
            occupied = op("Add", mask, op("Cast", leading, to=ir.DataType.INT64))
            length = op("ReduceSum", occupied, int64(1), keepdims=0)
            seqlens_k = op("Cast", op("Sub", length, int64(1)), to=ir.DataType.INT32)
            total = op("Shape", mask, start=1, end=2)
            total_length = op("Cast", op("Squeeze", total), to=ir.DataType.INT32)
            row = op("Where", leading, self._builder.float32(_MASKED), self._builder.float32(0.0))
            shape = op("Concat", op("Shape", ids, start=0, end=1), int64(1), op("Shape", ids, start=1), total, axis=0)
            bias = op("Expand", op("Unsqueeze", row, int64(1, 2)), shape)
        return _AttentionInputs(seqlens_k, total_length, bias, *self._rotary_tables())

    def _rotary_tables(self) -> tuple[ir.Value, ir.Value]:
        """cos and sin of position x frequency. Computed from constants: onnxruntime folds them, the disk is spared."""
        op, scalar = self._builder.op, self._builder.float32
        rope = self._config.rope
        with self._builder.scope("rotary_embedding"):
            frequencies = self._builder.constant(rope.inverse_frequencies(self._config.head_dim)[None, :])
            positions = op("Range", scalar(0.0), scalar(float(self._config.max_position_embeddings)), scalar(1.0))
            angles = op("Mul", op("Unsqueeze", positions, self._builder.int64(1)), frequencies)
            cos, sin = op("Cos", angles), op("Sin", angles)
            if rope.attention_factor == 1.0:
                return cos, sin
            factor = scalar(rope.attention_factor)
            return op("Mul", cos, factor), op("Mul", sin, factor)

    def _kept_positions(self, hidden: ir.Value) -> ir.Value:
        """The last `num_logits_to_keep` positions; 0 keeps all, as x[-0:] does."""
        op, int64 = self._builder.op, self._builder.int64
        default = ir.tensor(np.zeros(1, np.int64), name=NUM_LOGITS_TO_KEEP)
        keep = self._builder.initializer(default)
        keep.shape = None  # fed as [] by some runtimes and as [1] by others
        self._inputs.append(keep)
        start = op("Neg", op("Reshape", keep, int64(1)))
        return op("Slice", hidden, start, int64(np.iinfo(np.int64).max), int64(1))

    def _past(self, layer: int) -> list[ir.Value]:
        return [self._input(name, ir.DataType.FLOAT, *self._cache_shape("past")) for name in self._cache.past(layer)]

    def _present(self, layer: int) -> list[ir.Value]:
        shape = self._cache_shape("total")
        values = [ir.val(name, ir.DataType.FLOAT, shape) for name in self._cache.present(layer)]
        self._presents += values
        return values

    def _cache_shape(self, length: str) -> tuple[str, int, str, int]:
        return "batch_size", self._cache.kv_heads, f"{length}_sequence_length", self._cache.head_dim

    def _input(self, name: str, dtype: ir.DataType, *shape: str | int) -> ir.Value:
        value = ir.val(name, dtype, shape)
        self._inputs.append(value)
        return value
