"""Routing of an artifact beside that of the float model: how often its routers choose the same experts, by layer.

The artifact is run with its routers' logits as outputs, so it is routed as it is in use, its activations rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, NUM_LOGITS_TO_KEEP, KVCacheSpec
from q3edge.architecture.layer import layers_of
from q3edge.artifact import MODEL_FILE
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.graph_file import read_graph
from q3edge.evaluation.validation.results import CheckResult, LayerRouting
from q3edge.quantization.recipe import Recipe
from q3edge.reference.blocks.experts import agreement, tokens_by_expert
from q3edge.reference.routing import chosen_experts
from q3edge.runtime.padding import right_padded
from q3edge.runtime.session.loader import CheckedGraph
from q3edge.runtime.session.logits_to_keep import with_logits_to_keep
from q3edge.runtime.session.network import failed_run, open_session

MIN_FLOAT_AGREEMENT = 0.99  # of a float export, whose routers decide otherwise only where two experts are tied
ROUTED_TEXTS, _TOKENS = 8, 1024  # windows, and tokens in all, that are routed
Choices = dict[int, torch.Tensor]  # layer -> experts int64 [T, k] of each token


def compare_routing(
    folder: Path, checked: CheckedGraph, config: Qwen3Config, reference: WeightSource, windows: Sequence[Window],
    threads: int, kernels: str | None = None,
) -> tuple[LayerRouting, ...]:  # fmt: skip
    """Compare the routing of the artifact in `folder` with the reference's on the first tokens of some windows.

    config: the artifact's, which may choose fewer experts a token. kernels: as for `Decoder`. Empty for a model without
    experts. InputError: the graph has no router of a layer with experts, or fails while it runs.
    """
    if reference.config.moe is None:
        return ()
    length = _TOKENS // min(len(windows), ROUTED_TEXTS)
    texts = [window.inputs[:length] for window in windows[:ROUTED_TEXTS]]
    found, expected = (
        _artifact_choices(folder, checked, config, texts, threads, kernels),
        _float_choices(reference, texts),
    )
    count = reference.config.moe.num_experts
    return tuple(_compared(layer, found[layer], expected[layer], count) for layer in expected)


def check_routing(routing: Sequence[LayerRouting], *, is_exact: bool) -> CheckResult:
    """Check that a float export (`is_exact`) chooses the float model's experts; for others there is no limit."""
    worst = min(routing, key=lambda found: found.agreement)
    value = sum(found.agreement for found in routing) / len(routing)
    reason = (
        f"{100 * value:.1f} % of the chosen experts are the float model's, in layer {worst.layer} "
        f"{100 * worst.agreement:.1f} %"
    )
    if not is_exact:
        return CheckResult("routing", "pass", value, None, f"{reason}, no limit")
    reason += f", at least {100 * MIN_FLOAT_AGREEMENT:g} % expected of a float export"
    return CheckResult(
        "routing", "pass" if value >= MIN_FLOAT_AGREEMENT else "fail", value, MIN_FLOAT_AGREEMENT, reason
    )


def _compared(layer: int, found: torch.Tensor, expected: torch.Tensor, count: int) -> LayerRouting:
    return LayerRouting(layer, tuple(tokens_by_expert(expected, count).tolist()), agreement(found, expected))


def _float_choices(source: WeightSource, texts: Sequence[NDArray[np.int64]]) -> Choices:
    ids = right_padded([text.tolist() for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    real = torch.arange(ids.shape[1]) < lengths.unsqueeze(-1)
    chosen = chosen_experts(source, ids, label="routing of the float model")
    return {layer: experts[real] for layer, experts in chosen.items()}


def _artifact_choices(
    folder: Path,
    checked: CheckedGraph,
    config: Qwen3Config,
    texts: Sequence[NDArray[np.int64]],
    threads: int,
    kernels: str | None,
) -> Choices:
    assert config.moe is not None
    path = folder / MODEL_FILE
    outputs = _router_outputs(path, config)
    model = with_logits_to_keep(path.read_bytes()) + _further_outputs(outputs.values())
    opened = open_session(folder, checked, lambda: model, threads, kernels=kernels)
    session = opened.session
    cache = KVCacheSpec.of(config, Recipe.from_json(checked.manifest.recipe).kv_cache)
    parts: list[list[NDArray[np.float32]]] = []
    for text in texts:
        room = len(text) if cache.dtype == "int8" else 0  # an int8 cache is one buffer for what was and what is new
        empty = {buffer.past: np.zeros(buffer.allocated_shape(1, room), buffer.dtype) for buffer in cache.buffers()}
        feed = {INPUT_IDS: text[None], ATTENTION_MASK: np.ones((1, len(text)), np.int64), **empty}
        try:
            parts.append(session.run([*outputs.values()], feed | {NUM_LOGITS_TO_KEEP: np.ones(1, np.int64)}))
        except RuntimeError as error:  # all that onnxruntime raises there
            raise failed_run(path, error) from error
    found: Choices = {}
    for layer, logits in zip(outputs, zip(*parts, strict=True), strict=True):
        scores = torch.from_numpy(np.concatenate([part.reshape(-1, config.moe.num_experts) for part in logits]))
        found[layer] = torch.topk(scores, config.moe.num_experts_per_tok, dim=-1).indices
    return found


def _router_outputs(path: Path, config: Qwen3Config) -> dict[int, str]:
    """Find the value in the graph that holds the logits of each layer's router: what a node makes of its weight."""
    readers = {name: node.output[0] for node in read_graph(path).node for name in node.input}
    outputs: dict[int, str] = {}
    for layer in layers_of(config):
        for router in (block.router for block in layer.blocks if block.router is not None):
            name = layer.name(router).removesuffix(".weight")
            if name not in readers:
                raise InputError(f"{path}: no node reads the router {name}; export again")
            outputs[layer.number] = readers[name]
    return outputs


def _further_outputs(names: Iterable[str]) -> bytes:
    """Bytes that add float32 outputs to a serialized ModelProto that they follow: repeated fields are concatenated."""
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    return bytes(onnx.ModelProto(graph=onnx.GraphProto(output=outputs)).SerializeToString())
