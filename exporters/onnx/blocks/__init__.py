"""Export of each kind of block as ONNX operators, one file each.

Blocks are described in `q3edge.architecture.blocks` and computed in `q3edge.reference.blocks`. The parts common to all
kinds, the norm before and the sum after, are in `decoder`; a kind builds what is added to the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from q3edge.architecture.blocks import attention as attention_description
from q3edge.architecture.blocks import experts as experts_description
from q3edge.architecture.blocks import mlp as mlp_description
from q3edge.architecture.layer import Layer
from q3edge.exporters.onnx.blocks.attention import self_attention
from q3edge.exporters.onnx.blocks.experts import mixed_experts
from q3edge.exporters.onnx.blocks.mlp import gated_mlp
from q3edge.exporters.onnx.graph import DecoderGraph


@dataclass(frozen=True, slots=True)
class BlockExporter:
    """Exporter of a kind of block. scope: prefix of its nodes' names.

    build: (graph, layer, normed hidden states [B, S, H]) -> value that is added to the hidden states.
    """

    scope: str
    build: Callable[[DecoderGraph, Layer, ir.Value], ir.Value]


EXPORTERS: dict[str, BlockExporter] = {
    attention_description.KIND: BlockExporter("self_attn", self_attention),
    mlp_description.KIND: BlockExporter("mlp", gated_mlp),
    experts_description.KIND: BlockExporter("mlp", mixed_experts),
}
