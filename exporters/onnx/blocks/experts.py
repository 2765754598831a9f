"""A mixture of experts as operators; reference: transformers' Qwen3MoeSparseMoeBlock.

`routed_experts` leaves routing and products to onnxruntime's operators for experts. `plain_experts` is the same for
runtimes without them: every expert is an MLP over the tokens that chose it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from q3edge.architecture.blocks.experts import ROUTER
from q3edge.architecture.config import MoeConfig
from q3edge.architecture.layer import Layer
from q3edge.exporters.onnx.blocks.mlp import gated_mlp
from q3edge.exporters.onnx.graph import DecoderGraph


def mixed_experts(graph: DecoderGraph, layer: Layer, x: ir.Value) -> ir.Value:
    """Build the weighted sum of each token's experts for normed hidden states [batch_size, sequence_length, H]."""
    moe = graph.config.moe
    assert moe is not None
    router = graph.matrices.linear(x, layer.name(ROUTER))
    return (plain_experts if graph.experts == "plain" else routed_experts)(graph, layer, moe, x, router)


def routed_experts(graph: DecoderGraph, layer: Layer, moe: MoeConfig, x: ir.Value, router: ir.Value) -> ir.Value:
    """Build one operator for all experts. It weights them by their share of the chosen experts' probability."""
    op, int64 = graph.builder.op, graph.builder.int64
    mixed = graph.matrices.routed(x, op("Reshape", router, int64(-1, moe.num_experts)), layer, moe.num_experts_per_tok)
    if moe.norm_topk_prob:
        return mixed
    chosen, _ = _likeliest(graph, moe, router)
    return op("Mul", mixed, op("ReduceSum", chosen, int64(-1), keepdims=1))


def plain_experts(graph: DecoderGraph, layer: Layer, moe: MoeConfig, x: ir.Value, router: ir.Value) -> ir.Value:
    """Build an MLP for each expert, over the tokens that chose it; sums are in the order of the experts."""
    op, int64 = graph.builder.op, graph.builder.int64
    weights, numbers = _likeliest(graph, moe, router)
    if moe.norm_topk_prob:
        weights = op("Div", weights, op("ReduceSum", weights, int64(-1), keepdims=1))
    gates = op("ScatterElements", _zeros(graph, router), numbers, weights, axis=-1)
    gates = op("Transpose", op("Reshape", gates, int64(-1, moe.num_experts)), perm=[1, 0])
    tokens = op("Reshape", x, int64(-1, graph.config.hidden_size))
    mixed = _zeros(graph, tokens)
    for number in range(moe.num_experts):
        with graph.builder.scope(f"experts.{number}"):
            gate = op("Gather", gates, graph.builder.constant(np.array(number, np.int64)))
            rows = op("Transpose", op("NonZero", gate), perm=[1, 0])
            product = gated_mlp(graph, layer, op("GatherND", tokens, rows), number)
            product = op("Mul", product, op("Unsqueeze", op("GatherND", gate, rows), int64(-1)))
            mixed = op("ScatterND", mixed, rows, product, reduction="add")
    return op("Reshape", mixed, op("Shape", x))


def _likeliest(graph: DecoderGraph, moe: MoeConfig, router: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Add the choice of experts: probabilities among all, and numbers, [batch_size, sequence_length, chosen]."""
    return graph.builder.largest(graph.builder.op("Softmax", router, axis=-1), moe.num_experts_per_tok)


def _zeros(graph: DecoderGraph, like: ir.Value) -> ir.Value:
    return graph.builder.op("Expand", graph.builder.float32(0.0), graph.builder.op("Shape", like))
