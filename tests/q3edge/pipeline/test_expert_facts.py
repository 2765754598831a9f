"""What calibration and validation measure of experts reaches the report: counts, errors and routing, by layer."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import Manifest
from q3edge.errors import InputError
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.measure.tensor_facts import facts_of_experts, summarized_schemes, tensor_facts
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.quantization.recipe import Recipe
from q3edge.report.model_card import model_card
from tests.helpers.calibration import random_tokens
from tests.helpers.models import MOE, write_checkpoint
from tests.helpers.runtime import write_tokenizer

ROWS, LENGTH = 8, 32
SHAPE = MOE | {"num_hidden_layers": 3, "mlp_only_layers": [1]}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Qwen3Config:
    return Qwen3Config.load(write_checkpoint(tmp_path_factory.mktemp("config"), **SHAPE))


@pytest.fixture(scope="module", params=["rtn", "gptq"])
def manifest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("model")
    model = write_checkpoint(folder / "model", **SHAPE)
    write_tokenizer(model)
    recipe, calibration = Recipe.for_format("int4"), None
    if request.param == "gptq":
        np.save(folder / "tokens.npy", random_tokens(ROWS, LENGTH, vocab=320))
        calibration = CalibrationOptions((folder / "tokens.npy",))
    recipe = replace(recipe, method=request.param)
    return build_artifact(str(model), folder / "out", recipe, calibration, max_tokens=256).manifest


def test_one_fact_stands_for_the_experts_of_a_layer(manifest: Manifest, config: Qwen3Config) -> None:
    facts = {fact.name: fact for fact in tensor_facts(manifest, config)}
    mlp = [name.removeprefix("model.layers.") for name in facts if ".mlp." in name]
    parts = ["gate_proj", "up_proj", "down_proj"]
    of_experts = [f"mlp.experts.{part}.weight" for part in parts]
    assert mlp == [
        *(f"0.{name}" for name in ["mlp.gate.weight", *of_experts]),
        *(f"1.mlp.{part}.weight" for part in parts),
        *(f"2.{name}" for name in ["mlp.gate.weight", *of_experts]),
    ]
    down, gate = (facts[f"model.layers.2.mlp.experts.{part}_proj.weight"] for part in ("down", "gate"))
    assert (down.matrices, down.scheme) == (8, "int4-g32-asym")
    assert facts["model.layers.1.mlp.down_proj.weight"].matrices == 1
    assert summarized_schemes(tuple(facts.values())) == "int4-g32-asym, float32, int8-g32"
    if "expert_layers" in manifest.metrics:
        found = manifest.metrics["expert_layers"]["2"]
        assert down.loss == pytest.approx(statistics.fmean(found["down_loss"]))
        assert gate.loss == pytest.approx(statistics.fmean(found["gate_up_loss"]))
        assert down.loss != gate.loss
    else:
        assert down.loss is gate.loss is None


def test_tokens_errors_and_routing_are_those_measured(manifest: Manifest, config: Qwen3Config) -> None:
    facts = facts_of_experts(manifest, config)
    assert facts is not None
    calibrated = manifest.metrics.get("expert_layers")
    assert [layer.layer for layer in facts.layers] == [0, 2]
    assert facts.text == ("the calibration text" if calibrated else "the build's text")
    routing = {found["layer"]: found["agreement"] for found in manifest.metrics["validation"]["routing"]}
    for layer in facts.layers:
        assert sum(layer.tokens) == 2 * (ROWS * LENGTH if calibrated else 256)
        assert layer.agreement == routing[layer.layer]
        assert layer.bits == pytest.approx([layer.bits[0]] * 8)
        assert 4.2 < layer.bits[0] < 5
        assert bool(layer.losses) == bool(calibrated)
        if calibrated:
            found = calibrated[str(layer.layer)]
            expected = np.mean([found["gate_up_loss"], found["down_loss"]], axis=0)
            np.testing.assert_allclose(layer.losses, expected)
    assert f"## Experts\n\n{' '.join(facts.words)}" in model_card(manifest)


def test_damaged_facts_are_named(manifest: Manifest, config: Qwen3Config) -> None:
    damaged = manifest.with_metrics({"expert_layers": {"0": {"tokens": None, "agreement": 1.0}}})
    with pytest.raises(InputError, match=r"q3edge\.json: what it says of experts is not this q3edge's"):
        facts_of_experts(damaged, config)


def test_a_dense_model_has_none(manifest: Manifest, tmp_path: Path) -> None:
    dense = Qwen3Config.load(write_checkpoint(tmp_path / "dense"))
    plain = replace(manifest, metrics={})
    assert facts_of_experts(plain, dense) is None
    assert all(fact.matrices == 1 for fact in tensor_facts(plain, dense))
    assert "## Experts" not in model_card(replace(manifest, metrics={"model_bytes": 1}))
