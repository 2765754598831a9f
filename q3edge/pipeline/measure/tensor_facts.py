"""Facts of a manifest about every matrix: scheme, bits per weight, and the losses that calibration measured."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer, layer_prefix, layers_of
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import Manifest, expert_loss
from q3edge.exporters.onnx.stored import weight_bytes
from q3edge.quantization.recipe import Recipe
from q3edge.report.content import TensorFact
from q3edge.report.experts import ExpertFacts, expert_facts

FLOAT_LABEL = "float32"


def tensor_facts(manifest: Manifest, config: Qwen3Config) -> tuple[TensorFact, ...]:
    """Facts of every matrix in the order of the forward pass; vectors are left out.

    One fact stands for a matrix of all of a layer's experts: a large model has thousands of them.
    """
    joined = {name: whole for layer in layers_of(config) for name, whole in _of_experts(layer)}
    losses = {whole: loss for layer in layers_of(config) for whole, loss in _losses_of_experts(layer, manifest)}
    parts: dict[str, list[TensorFact]] = {}
    for fact in _single_facts(manifest, config):
        parts.setdefault(joined.get(fact.name, fact.name), []).append(fact)
    experts = {*joined.values()}
    return tuple(
        _joined(name, found, losses.get(name)) if name in experts else found[0] for name, found in parts.items()
    )


def summarized_schemes(facts: tuple[TensorFact, ...]) -> str:
    """Summary of the schemes, the most common first: int4-g32-asym, int8-g32."""
    counts = Counter[str]()
    for fact in facts:
        counts[fact.scheme] += fact.matrices
    return ", ".join(label for label, _ in counts.most_common())


def facts_of_experts(manifest: Manifest, config: Qwen3Config) -> ExpertFacts | None:
    """Facts of the experts of every layer; None where there are none, or nothing was measured of them."""
    sizes, shapes = weight_bytes(config, Recipe.from_json(manifest.recipe).resolve(config)), tensor_shapes(config)
    bits: dict[int, list[float]] = {}
    for layer in layers_of(config):
        for block in layer.blocks:
            for groups in block.experts:
                names = [name for group in groups for name in layer.names(group)]
                weights = sum(math.prod(shapes[name]) for name in names)
                bits.setdefault(layer.number, []).append(8 * sum(sizes[name] for name in names) / weights)
    return expert_facts(manifest.metrics, bits)


def _single_facts(manifest: Manifest, config: Qwen3Config) -> Iterator[TensorFact]:
    reports: Mapping[str, Mapping[str, float]] = manifest.metrics.get("tensors", {})
    schemes = Recipe.from_json(manifest.recipe).resolve(config)
    sizes = weight_bytes(config, schemes)
    for name, shape in tensor_shapes(config).items():
        if len(shape) < 2:
            continue
        scheme, report = schemes[name], reports.get(name, {})
        label = scheme.label() if scheme else FLOAT_LABEL
        bits = 8 * sizes[name] / math.prod(shape)
        yield TensorFact(name, label, bits, report.get("loss"), report.get("rounding_loss"))


def _of_experts(layer: Layer) -> Iterator[tuple[str, str]]:
    """Name of each expert's matrix, with the name, without a number, that stands for those of all experts."""
    for group in layer.groups:
        if group.expert is not None:
            for field in group.matrices:
                path = layer.tensors[field].path
                yield layer.name(field), layer_prefix(layer.number) + path.replace(f".{group.expert}.", ".", 1)


def _losses_of_experts(layer: Layer, manifest: Manifest) -> Iterator[tuple[str, float]]:
    """Mean loss, over all experts, of the matrices that `_of_experts` names."""
    found: Mapping[str, Sequence[float]] = manifest.metrics.get("expert_layers", {}).get(str(layer.number), {})
    names = dict(_of_experts(layer))
    for group in layer.groups:
        if group.expert is not None and (losses := found.get(expert_loss(group.role))):
            yield from ((names[name], statistics.fmean(losses)) for name in layer.names(group))


def _joined(name: str, facts: Sequence[TensorFact], loss: float | None) -> TensorFact:
    schemes = ", ".join(dict.fromkeys(fact.scheme for fact in facts))
    return TensorFact(name, schemes, statistics.fmean(fact.bits for fact in facts), loss, None, len(facts))
