"""A new kind of block is one description, one step in the reference and one function in the exporter: shown by a toy.

An adapter between attention and MLP, with a norm of its own in the middle: x + out_proj(norm(silu(in_proj(norm(x))))).
Nothing else of the product is touched, and it is read, calibrated, rounded, exported, run and judged.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn.functional import linear, rms_norm, silu

from q3edge.architecture import blocks as descriptions
from q3edge.architecture.blocks import Block, InputGroup, NormFold, Tensor
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer
from q3edge.artifact import MODEL_FILE, Manifest
from q3edge.calibration.layers.scheme_groups import scheme_groups
from q3edge.checkpoint import open_float_model
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.exporters.onnx import blocks as exporters
from q3edge.exporters.onnx.blocks import BlockExporter
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.exporters.onnx.graph import DecoderGraph
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.quantization.recipe import Recipe
from q3edge.reference import blocks as references
from q3edge.reference.layer import block_output, decoder_layer, first_input
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize
from tests.helpers.calibration import random_tokens
from tests.helpers.models import InMemoryWeights, write_checkpoint
from tests.helpers.runtime import write_tokenizer

WIDTH = 32


def describe(config: Qwen3Config, layer: int) -> Block | None:
    """The first file: what the block is made of. Only odd layers have it."""
    if layer % 2 == 0:
        return None
    hidden = config.hidden_size
    return Block(
        kind="adapter",
        tensors=(
            Tensor("adapter_norm", "adapter.norm.weight", (hidden,)),
            Tensor("in_proj", "adapter.in_proj.weight", (WIDTH, hidden)),
            Tensor("inner_norm", "adapter.inner_norm.weight", (WIDTH,)),
            Tensor("out_proj", "adapter.out_proj.weight", (hidden, WIDTH)),
        ),
        norm="adapter_norm",
        groups=(
            InputGroup("adapter_in", ("in_proj",), NormFold("adapter_norm")),
            InputGroup("adapter_out", ("out_proj",), NormFold("inner_norm")),
        ),
    )


def adapted(x: torch.Tensor, weights: LayerWeights, config: Qwen3Config, rotary: RotaryTables) -> torch.Tensor:
    """The second file: what the input of out_proj is, from the input of in_proj."""
    return normalize(silu(linear(x, weights["in_proj"])), weights["inner_norm"], config)


def export_adapter(graph: DecoderGraph, layer: Layer, x: ir.Value) -> ir.Value:
    """The third file: the same as operators."""
    value = graph.matrices.linear(x, layer.name("in_proj"))
    value = graph.builder.op("Mul", value, graph.builder.op("Sigmoid", value))
    return graph.matrices.linear(graph.norm(value, layer.name("inner_norm")), layer.name("out_proj"))


@pytest.fixture(autouse=True)
def _adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = descriptions.KINDS
    monkeypatch.setattr(descriptions, "KINDS", [first, describe, *others])
    monkeypatch.setitem(references.STEPS, "adapter", (adapted,))
    monkeypatch.setitem(exporters.EXPORTERS, "adapter", BlockExporter("adapter", export_adapter))


def test_the_reference_computes_it_in_its_place() -> None:
    source = InMemoryWeights.random(3)
    config = source.config
    weights, rotary = LayerWeights.read(source, 1), RotaryTables.of(config, 9)
    attention, adapter, mlp = weights.layer.blocks
    assert (adapter.kind, mlp.kind) == ("adapter", "mlp")
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 9, config.hidden_size)).astype(np.float32))
    seen: dict[str, torch.Tensor] = {}
    found = decoder_layer(x, weights, config, rotary, watch=seen.__setitem__)
    x = block_output(x, seen["o"], attention, weights)

    def norm(values: torch.Tensor, field: str) -> torch.Tensor:
        return rms_norm(values, values.shape[-1:], weights[field], config.rms_norm_eps)

    inner = norm(silu(norm(x, "adapter_norm") @ weights["in_proj"].T), "inner_norm")
    torch.testing.assert_close(seen["adapter_out"], inner)
    x = x + inner @ weights["out_proj"].T
    torch.testing.assert_close(seen["gate_up"], first_input(x, mlp, weights, config))
    torch.testing.assert_close(found, block_output(x, seen["down"], mlp, weights))


def test_a_budget_knows_its_groups() -> None:
    names = [unit.name for unit in scheme_groups(InMemoryWeights.random().config)]
    layers = [f"layer.0.{name}" for name in ("qkv", "o", "gate_up", "down")]
    layers += [f"layer.1.{name}" for name in ("qkv", "o", "adapter_in", "adapter_out", "gate_up", "down")]
    assert names == [*layers, "tables"]


@pytest.mark.parametrize("trained", [False, True], ids=["solved", "reconstructed and tuned"])
def test_it_is_calibrated_exported_and_judged(trained: bool, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", seed=5)
    write_tokenizer(model)
    np.save(tmp_path / "tokens.npy", random_tokens(8, 32, vocab=300))
    calibration = CalibrationOptions((tmp_path / "tokens.npy",), reconstruct=trained, tune=trained)
    built = build_artifact(str(model), tmp_path / "out", Recipe.for_format("int8", 32), calibration)
    assert isinstance(built.report, ValidationReport)
    assert built.report.overall.mean_kl.value < 0.02
    metrics = built.manifest.metrics
    assert {name for name in metrics["tensors"] if "adapter" in name} == {
        f"model.layers.1.adapter.{part}_proj.weight" for part in ("in", "out")
    }
    with open_float_model(model) as checkpoint:
        schemes = Recipe.from_json(Manifest.load(tmp_path / "out").recipe).resolve(checkpoint.config)
        assert dry_run(checkpoint.config, schemes).model_bytes == metrics["model_bytes"]


def test_a_float_export_of_it_is_exact(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", seed=6)
    write_tokenizer(model)
    built = build_artifact(str(model), tmp_path / "out", None)
    assert isinstance(built.report, ValidationReport)
    assert built.report.overall.mean_kl.value < 1e-9
    nodes = onnx.load(tmp_path / "out" / MODEL_FILE, load_external_data=False).graph.node
    assert any(node.name.startswith("/layers.1/adapter/") for node in nodes)
    assert not any(node.name.startswith("/layers.0/adapter/") for node in nodes)
