"""Qwen3's forward pass as an ONNX graph, to be read from top to bottom like a model definition.

Weights and their operators are in `linear`, blocks in `blocks`, attention over the cache in `cached_attention`.
Reference: transformers' Qwen3ForCausalLM, and for embeddings its Qwen3Model with sentence-transformers' Pooling and
Normalize.
"""

from __future__ import annotations

import onnx_ir as ir

from q3edge.architecture.kv_cache import LOGITS, SENTENCE_EMBEDDING
from q3edge.architecture.layer import Layer, layers_of
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, head_tensor
from q3edge.exporters.onnx.blocks import EXPORTERS
from q3edge.exporters.onnx.graph import DecoderGraph


def build_decoder(graph: DecoderGraph) -> ir.Model:
    """Build the forward pass: input_ids, attention_mask, past -> logits, present."""
    hidden = _layers(graph)
    with graph.builder.scope("lm_head"):
        hidden = graph.norm(graph.kept_positions(hidden), FINAL_NORM)
        logits = graph.matrices.linear(hidden, head_tensor(graph.config))
    logits.name, logits.dtype = LOGITS, ir.DataType.FLOAT
    logits.shape = ir.Shape(["batch_size", graph.logits_length, graph.config.vocab_size])
    return graph.builder.model(graph.inputs, [logits, *graph.presents], "qwen3")


def build_embedder(graph: DecoderGraph) -> ir.Model:
    """Build the forward pass: input_ids, attention_mask -> sentence_embedding, of length 1."""
    op, hidden = graph.builder.op, _layers(graph)
    with graph.builder.scope("pooling"):
        pooled = graph.norm(graph.last_tokens(hidden), FINAL_NORM)
        embedding = op("Div", pooled, op("ReduceL2", pooled, graph.builder.int64(-1), keepdims=1))
    embedding.name, embedding.dtype = SENTENCE_EMBEDDING, ir.DataType.FLOAT
    embedding.shape = ir.Shape(["batch_size", graph.config.hidden_size])
    return graph.builder.model(graph.inputs, [embedding], "qwen3")


def _layers(graph: DecoderGraph) -> ir.Value:
    """Build embedding and layers: hidden states [batch_size, sequence_length, hidden_size] before the final norm."""
    scope = graph.builder.scope
    with scope("embed_tokens"):
        hidden = graph.matrices.embedding(EMBEDDING, graph.ids)
    for layer in layers_of(graph.config):
        with scope(f"layers.{layer.number}"):
            hidden = _decoder_layer(graph, layer, hidden)
    return hidden


def _decoder_layer(graph: DecoderGraph, layer: Layer, hidden: ir.Value) -> ir.Value:
    for block in layer.blocks:
        exporter = EXPORTERS[block.kind]
        with graph.builder.scope(exporter.scope):
            normed = graph.norm(hidden, layer.name(block.norm))
            hidden = graph.builder.op("Add", hidden, exporter.build(graph, layer, normed))
    return hidden
