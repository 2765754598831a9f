"""Self-attention with normed queries and keys as operators; reference: transformers' Qwen3Attention."""

from __future__ import annotations

import onnx_ir as ir

from q3edge.architecture.layer import Layer
from q3edge.exporters.onnx.graph import DecoderGraph


def self_attention(graph: DecoderGraph, layer: Layer, x: ir.Value) -> ir.Value:
    """Build attention over all tokens so far for normed hidden states [batch_size, sequence_length, hidden_size]."""
    query, key, value = graph.matrices.linears(x, [layer.name(f"{part}_proj") for part in "qkv"])
    query = graph.head_norm(query, layer.name("q_norm"))
    key = graph.head_norm(key, layer.name("k_norm"))
    return graph.matrices.linear(graph.attended(layer.number, query, key, value), layer.name("o_proj"))
