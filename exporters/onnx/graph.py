"""`DecoderGraph`: the parts of a graph that its blocks share: inputs, cache, norms, matrices.

Names of inputs and outputs are in `q3edge.architecture.kv_cache`, weights and their operators in `linear`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, NUM_LOGITS_TO_KEEP, KVCacheSpec, KVScales
from q3edge.exporters.onnx.builder import GraphBuilder
from q3edge.exporters.onnx.cached_attention import CachedAttention, Heads
from q3edge.exporters.onnx.linear import Matrices
from q3edge.formats import ExpertOperators


class DecoderGraph:
    """Graph under construction, of a decoder or of an embedding model, which has no cache.

    inputs, presents: in order of use; ids, mask: token ids, and which of them are real; experts: operators of experts.
    """

    def __init__(
        self,
        config: Qwen3Config,
        builder: GraphBuilder,
        matrices: Matrices,
        kv_scales: KVScales | None = None,
        *,
        last_logits: bool = False,
        experts: ExpertOperators = "qmoe",
    ) -> None:
        """Add token ids and attention mask as inputs; `kv_scales` makes a decoder's KV cache int8.

        last_logits: the graph gives the logits of the last position, in place of all. experts: operators of experts.
        """
        self._last_logits, self.experts = last_logits, experts
        self.config, self.builder, self.matrices = config, builder, matrices
        self.inputs: list[ir.Value] = []
        self.presents: list[ir.Value] = []
        self._cache = KVCacheSpec.of(config, "float32" if kv_scales is None else "int8")
        self.ids = self._input(INPUT_IDS, ir.DataType.INT64, "batch_size", "sequence_length")
        total = "sequence_length" if config.is_embedding else "total_sequence_length"
        self.mask = self._input(ATTENTION_MASK, ir.DataType.INT64, "batch_size", total)
        self._attention = CachedAttention(config, builder, self.ids, self.mask, kv_scales)

    def attended(self, layer: int, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
        """Add a layer's attention; all float32 [batch_size, sequence_length, heads * head_dim]."""
        past, present = self._cache_of(layer)
        return self._attention.context(Heads(layer, query, key, value, past, present))

    def _cache_of(self, layer: int) -> tuple[list[ir.Value | None], list[ir.Value]]:
        """Past (key, value) of a layer, added to the inputs, and present, added to the outputs.

        An embedding model's present is no output, but has to be there: without it, the operator keeps the scores of
        all pairs of tokens, 4 GB for 8192 tokens and 16 heads.
        """
        if self.config.is_embedding:
            return [None, None], [ir.val(f"layers.{layer}.{name}") for name in ("key", "value")]
        past: list[ir.Value | None] = [
            self._input(name, self._cache_type, *self._cache_shape("past")) for name in self._cache.past(layer)
        ]
        shape = self._cache_shape("total")
        present = [ir.val(name, self._cache_type, shape) for name in self._cache.present(layer)]
        self.presents += present
        return past, present

    def last_tokens(self, hidden: ir.Value) -> ir.Value:
        """Take the state of each row's last real token: [batch_size, sequence_length, hidden_size] without the middle.

        Padding is on the right, where causal attention keeps it out of all states that count.
        """
        op, int64 = self.builder.op, self.builder.int64
        last = op("Sub", op("ReduceSum", self.mask, int64(1), keepdims=1), int64(1))  # int64 [batch_size, 1]
        return op("GatherND", hidden, last, batch_dims=1)

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
