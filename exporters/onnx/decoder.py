"""Qwen3's forward pass as an ONNX graph, to be read from top to bottom like a model definition.

Owns the computation. Weights and their operators are `linear`'s, attention over the cache `attention`'s, names of
inputs and outputs `q3edge.architecture.kv_cache`'s. Reference: transformers' Qwen3ForCausalLM.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS, NUM_LOGITS_TO_KEEP, KVCacheSpec, KVScales
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, head_tensor, layer_prefix
from q3edge.exporters.onnx.attention import Attention, Layer
from q3edge.exporters.onnx.builder import GraphBuilder
from q3edge.exporters.onnx.linear import Matrices


class Decoder:
    """Builds the graph of one model; `build` is the forward pass."""

    def __init__(
        self, config: Qwen3Config, builder: GraphBuilder, matrices: Matrices, kv_scales: KVScales | None = None
    ) -> None:
        """`kv_scales` makes the KV cache int8."""
        self._config, self._builder, self._matrices, self._kv_scales = config, builder, matrices, kv_scales
        self._cache = KVCacheSpec.of(config, "float32" if kv_scales is None else "int8")
        self._inputs: list[ir.Value] = []
        self._presents: list[ir.Value] = []

    def build(self) -> ir.Model:
        """input_ids, attention_mask, past -> logits, present."""
        ids = self._input(INPUT_IDS, ir.DataType.INT64, "batch_size", "sequence_length")
        mask = self._input(ATTENTION_MASK, ir.DataType.INT64, "batch_size", "total_sequence_length")
        attention = Attention(self._config, self._builder, ids, mask, self._kv_scales)
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
        return self._builder.model(self._inputs, [logits, *self._presents], "qwen3")

    def _decoder_layer(self, layer: int, hidden: ir.Value, attention: Attention) -> ir.Value:
        op, prefix = self._builder.op, layer_prefix(layer)
        with self._builder.scope("self_attn"):
            normed = self._rms_norm(hidden, f"{prefix}input_layernorm.weight")
            hidden = op("Add", hidden, self._self_attention(layer, normed, attention))
        with self._builder.scope("mlp"):
            normed = self._rms_norm(hidden, f"{prefix}post_attention_layernorm.weight")
            return op("Add", hidden, self._mlp(f"{prefix}mlp.", normed))

    def _self_attention(self, layer: int, x: ir.Value, attention: Attention) -> ir.Value:
        prefix = f"{layer_prefix(layer)}self_attn."
        query, key, value = self._matrices.linears(x, [f"{prefix}{part}_proj.weight" for part in "qkv"])
        query = self._head_norm(query, f"{prefix}q_norm.weight")
        key = self._head_norm(key, f"{prefix}k_norm.weight")
        context = attention.context(Layer(layer, query, key, value, self._past(layer), self._present(layer)))
        return self._matrices.linear(context, f"{prefix}o_proj.weight")

    def _mlp(self, prefix: str, x: ir.Value) -> ir.Value:
        gate, up = self._matrices.linears(x, [f"{prefix}gate_proj.weight", f"{prefix}up_proj.weight"])
        return self._matrices.linear(self._builder.call("SwiGLU", _swiglu, gate, up), f"{prefix}down_proj.weight")

    def _rms_norm(self, x: ir.Value, weight: str) -> ir.Value:
        return self._normed(self._builder, x, self._matrices.vector(weight))

    def _head_norm(self, x: ir.Value, weight: str) -> ir.Value:
        """RMS norm of each head: [batch_size, sequence_length, heads * head_dim] in and out."""
        return self._builder.call("HeadNorm", self._normed_heads, x, self._matrices.vector(weight))

    def _normed_heads(self, builder: GraphBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
        heads = builder.op("Reshape", x, builder.int64(0, 0, -1, self._config.head_dim))
        return builder.op("Reshape", self._normed(builder, heads, weight), builder.int64(0, 0, -1))

    def _normed(self, builder: GraphBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
        epsilon = self._config.rms_norm_eps
        return builder.op("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=epsilon, stash_type=1)

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
        return [self._input(name, self._cache_type, *self._cache_shape("past")) for name in self._cache.past(layer)]

    def _present(self, layer: int) -> list[ir.Value]:
        shape = self._cache_shape("total")
        values = [ir.val(name, self._cache_type, shape) for name in self._cache.present(layer)]
        self._presents += values
        return values

    @property
    def _cache_type(self) -> ir.DataType:
        return ir.DataType.from_numpy(np.dtype(self._cache.dtype))

    def _cache_shape(self, length: str) -> tuple[str, int, str, int]:
        return "batch_size", self._cache.kv_heads, f"{length}_sequence_length", self._cache.head_dim

    def _input(self, name: str, dtype: ir.DataType, *shape: str | int) -> ir.Value:
        value = ir.val(name, dtype, shape)
        self._inputs.append(value)
        return value


def _swiglu(builder: GraphBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
    return builder.op("Mul", builder.op("Mul", gate, builder.op("Sigmoid", gate)), up)
