"""The MLP, dense or one expert's, as operators; reference: transformers' Qwen3MLP."""

from __future__ import annotations

import onnx_ir as ir

from q3edge.architecture.blocks.mlp import expert_prefix
from q3edge.architecture.layer import Layer
from q3edge.exporters.onnx.graph import DecoderGraph


def gated_mlp(graph: DecoderGraph, layer: Layer, x: ir.Value, expert: int | None = None) -> ir.Value:
    """Build silu(gate) * up, then down, for normed hidden states [..., hidden_size]; expert: number of one."""
    op, prefix = graph.builder.op, expert_prefix(expert)
    gate, up = graph.matrices.linears(x, [layer.name(f"{prefix}{part}_proj") for part in ("gate", "up")])
    silu = op("Mul", gate, op("Sigmoid", gate))
    return graph.matrices.linear(op("Mul", silu, up), layer.name(f"{prefix}down_proj"))
