"""The dense MLP as operators; reference: transformers' Qwen3MLP."""

from __future__ import annotations

import onnx_ir as ir

from q3edge.architecture.layer import Layer
from q3edge.exporters.onnx.graph import DecoderGraph


def gated_mlp(graph: DecoderGraph, layer: Layer, x: ir.Value) -> ir.Value:
    """Build silu(gate) * up, then down, for normed hidden states [batch_size, sequence_length, hidden_size]."""
    op = graph.builder.op
    gate, up = graph.matrices.linears(x, [layer.name("gate_proj"), layer.name("up_proj")])
    silu = op("Mul", gate, op("Sigmoid", gate))
    return graph.matrices.linear(op("Mul", silu, up), layer.name("down_proj"))
