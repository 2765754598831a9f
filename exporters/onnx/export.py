"""Entry point of the ONNX exporter: weights of one model -> onnx/model.onnx and onnx/model.onnx_data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVScales
from q3edge.architecture.layer import layers_of
from q3edge.architecture.tensors import count_weights
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError
from q3edge.exporters.onnx.builder import INT8_CACHE_OPSET, OPSET, GraphBuilder
from q3edge.exporters.onnx.decoder import build_decoder, build_embedder
from q3edge.exporters.onnx.expert_matrices import expert_matrices
from q3edge.exporters.onnx.external_data import DataLayout, ExternalData
from q3edge.exporters.onnx.graph import DecoderGraph
from q3edge.exporters.onnx.linear import Matrices
from q3edge.formats import ExpertOperators
from q3edge.progress import Advance
from q3edge.quantization.scheme import Scheme

_HEAD_DIM_MULTIPLE = 16  # checked by the kernel when it runs, with do_rotary


def export_decoder(
    source: WeightSource,
    folder: Path,
    *,
    kv_scales: KVScales | None = None,
    accuracy_level: int = 4,
    last_logits: bool = False,
    experts: ExpertOperators = "qmoe",
) -> None:
    """Write folder/onnx/model.onnx and folder/onnx/model.onnx_data; the same source gives the same bytes.

    The graph of an embedding model (`Qwen3Config.is_embedding`) gives embeddings in place of logits, without a cache.

    kv_scales: of an int8 KV cache; None: it is float32.
    accuracy_level: of every MatMulNBits and QMoE; 0 keeps activations float32, 4 rounds them to int8 per block (fast).
    last_logits: the graph gives logits of the last position only; q3edge's runtime asks for others all the same.
    experts: operators of experts: "qmoe" is onnxruntime's for all of a layer, "plain" an MLP for each, for runtimes
    without that.
    Memory: a block of one matrix; for int8_per_token a whole one, or the q/k/v or gate/up of a layer together.
    InputError: a head_dim that attention cannot take, or schemes of experts that their operator cannot.
    FileExistsError: the data file is there already.
    """
    config = source.config
    check_exportable(config)
    (folder / DATA_FILE).parent.mkdir(parents=True, exist_ok=True)
    weights = count_weights(config)
    with progress.task("export", weights) as advance, ExternalData(folder / DATA_FILE) as data:
        graph = serialized(source, data, kv_scales, accuracy_level, advance, last_logits=last_logits, experts=experts)
    (folder / MODEL_FILE).write_bytes(graph)


def serialized(
    source: WeightSource,
    data: DataLayout,
    kv_scales: KVScales | None = None,
    accuracy_level: int = 4,
    advance: Advance = lambda _weights: None,
    *,
    last_logits: bool = False,
    experts: ExpertOperators = "qmoe",
) -> bytes:
    """Build the graph and store its weights in `data`; returns the bytes of model.onnx."""
    builder = GraphBuilder(OPSET if kv_scales is None else INT8_CACHE_OPSET)
    matrices = Matrices(builder, source, data, accuracy_level, advance)
    decoder = DecoderGraph(source.config, builder, matrices, kv_scales, last_logits=last_logits, experts=experts)
    proto = ir.to_proto((build_embedder if source.config.is_embedding else build_decoder)(decoder))
    del proto.graph.value_info[:]  # types and shapes of initializers, which are stored with them
    graph: bytes = proto.SerializeToString(deterministic=True)
    return graph


def check_exportable(
    config: Qwen3Config, schemes: Mapping[str, Scheme | None] | None = None, experts: ExpertOperators = "qmoe"
) -> None:
    """Raise InputError for a model whose graph cannot be built; to be called before any work is spent.

    schemes: of its tensors, where they are known already: the operators of `experts` may be unable to have them.
    """
    if schemes is not None and experts == "qmoe":
        for layer in layers_of(config):
            expert_matrices(layer, schemes.__getitem__)
    if config.head_dim % _HEAD_DIM_MULTIPLE:
        raise InputError(
            f"config.json: head_dim = {config.head_dim}: cannot be exported, "
            f"onnxruntime's GroupQueryAttention expects a multiple of {_HEAD_DIM_MULTIPLE}"
        )
