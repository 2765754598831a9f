"""`DecoderGraph`: the parts of a decoder's graph that its blocks share: inputs, cache, norms, matrices.

Names of inputs and outputs are in `q3edge.architecture.kv_cache`, weights and their operators in `linear`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, NUM_LOGITS_TO_KEEP, KVCacheSpec, KVScales
from q3edge.exporters.onnx.builder import GraphBuilder
from q3edge.exporters.onnx.cached_attention import CachedAttention
from q3edge.exporters.onnx.linear import Matrices


class DecoderGraph:
    """Graph under construction. inputs, presents: in order of use; ids: token ids; attention: over the cache."""

    def __init__(
        self,
        config: Qwen3Config,
        builder: GraphBuilder,
        matrices: Matrices,
        kv_scales: KVScales | None = None,
        *,
        last_logits: bool = False,
    ) -> None:
        """Add token ids and attention mask as inputs; `kv_scales` makes the KV cache int8.

        last_logits: the graph gives the logits of the last position, in place of all.
        """
        self._last_logits = last_logits
        self.config, self.builder, self.matrices = config, builder, matrices
        self.inputs: list[ir.Value] = []
        self.presents: list[ir.Value] = []
        self._cache = KVCacheSpec.of(config, "float32" if kv_scales is None else "int8")
        self.ids = self._input(INPUT_IDS, ir.DataType.INT64, "batch_size", "sequence_length")
        mask = self._input(ATTENTION_MASK, ir.DataType.INT64, "batch_size", "total_sequence_length")
        self.attention = CachedAttention(config, builder, self.ids, mask, kv_scales)

    def cache(self, layer: int) -> tuple[list[ir.Value], list[ir.Value]]:
        """Add the past (key, value) of a layer to the inputs and its present to the outputs."""
        past = [self._input(name, self._cache_type, *self._cache_shape("past")) for name in self._cache.past(layer)]
        shape = self._cache_shape("total")
        present = [ir.val(name, self._cache_type, shape) for name in self._cache.present(layer)]
        self.presents += present
        return past, present

    def kept_positions(self, hidden: ir.Value) -> ir.Value:
        """Keep the last `num_logits_to_keep` positions, a constant of the graph; 0 keeps all, as x[-0:] does.

        q3edge's runtime makes an input of it. In the file it is none: OpenVINO takes no input with a default.
        """
        op, int64 = self.builder.op, self.builder.int64
        keep = self.builder.initializer(ir.tensor(np.array([int(self._last_logits)]), name=NUM_LOGITS_TO_KEEP))
        return op("Slice", hidden, op("Neg", keep), int64(np.iinfo(np.int64).max), int64(1))

    @property
    def logits_length(self) -> str | int:
        """Positions with logits: a name stands for as many as there are."""
        return 1 if self._last_logits else "logits_length"

    def norm(self, x: ir.Value, weight: str) -> ir.Value:
        """Add an RMS norm over the last axis."""
        vector, epsilon = self.matrices.vector(weight), self.config.rms_norm_eps
        return self.builder.op("RMSNormalization", x, vector, epsilon=epsilon)

    def head_norm(self, x: ir.Value, weight: str) -> ir.Value:
        """Add an RMS norm of each head: [batch_size, sequence_length, heads * head_dim] in and out."""
        op, int64 = self.builder.op, self.builder.int64
        heads = op("Reshape", x, int64(0, 0, -1, self.config.head_dim))
        return op("Reshape", self.norm(heads, weight), int64(0, 0, -1))

    @property
    def _cache_type(self) -> ir.DataType:
        return ir.DataType.from_numpy(np.dtype(self._cache.dtype))

    def _cache_shape(self, length: str) -> tuple[str, int, str, int]:
        return "batch_size", self._cache.kv_heads, f"{length}_sequence_length", self._cache.head_dim

    def _input(self, name: str, dtype: ir.DataType, *shape: str | int) -> ir.Value:
        value = ir.val(name, dtype, shape)
        self.inputs.append(value)
        return value
