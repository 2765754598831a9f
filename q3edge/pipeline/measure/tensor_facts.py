"""Facts of a manifest about every matrix: scheme, bits per weight, and the losses that calibration measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import Manifest
from q3edge.exporters.onnx.stored import weight_bytes
from q3edge.quantization.recipe import Recipe
from q3edge.report.content import TensorFact

FLOAT_LABEL = "float32"


def tensor_facts(manifest: Manifest, config: Qwen3Config) -> tuple[TensorFact, ...]:
    """Facts of every matrix in the order of the forward pass; vectors are left out."""
    reports: Mapping[str, Mapping[str, float]] = manifest.metrics.get("tensors", {})
    schemes = Recipe.from_json(manifest.recipe).resolve(config)
    sizes = weight_bytes(config, schemes)
    facts = []
    for name, shape in tensor_shapes(config).items():
        if len(shape) < 2:
            continue
        scheme, report = schemes[name], reports.get(name, {})
        label = scheme.label() if scheme else FLOAT_LABEL
        bits = 8 * sizes[name] / math.prod(shape)
        facts.append(TensorFact(name, label, bits, report.get("loss"), report.get("rounding_loss")))
    return tuple(facts)


def summarized_schemes(facts: tuple[TensorFact, ...]) -> str:
    """Summary of the schemes, the most common first: int4-g32-asym, int8-g32."""
    return ", ".join(label for label, _ in Counter(fact.scheme for fact in facts).most_common())
