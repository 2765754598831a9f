"""Exact activations: for every scheme the rewritten model computes what `dequantize()` defines, to float32 rounding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from q3edge.artifact import MODEL_FILE, Manifest
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.errors import InputError
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.activations import ActivationRounding
from q3edge.evaluation.validation.validate import validate_artifact
from q3edge.exporters.onnx.export import export_decoder
from q3edge.quantization.recipe import Recipe
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.exact_activations import with_exact_activations
from tests.helpers.models import InMemoryWeights, tiny_config
from tests.helpers.runtime import write_tokenizer

RECIPES = {
    "int4 group 16": Recipe.for_format("int4", 16),
    "int4 group 32": Recipe.for_format("int4", 32),
    "int4 group 64 symmetric": Recipe.for_format("int4", 64, symmetric=True),
    "int8 group 32": Recipe.for_format("int8", 32),
    "int8 group 64 asymmetric": Recipe.for_format("int8", 64, symmetric=False),
}
IDS = np.random.default_rng(0).integers(0, 320, 200)


def quantized(recipe: Recipe) -> InMemoryWeights:
    source = InMemoryWeights.random()
    schemes = recipe.resolve(source.config)
    tensors = {
        name: values if (scheme := schemes[name]) is None else round_to_nearest(source.read(name), scheme)
        for name, values in source.tensors.items()
    }
    return InMemoryWeights(source.config, tensors)


def write_artifact(folder: Path, source: InMemoryWeights, recipe: Recipe | None) -> Path:
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(tiny_config()))
    export_decoder(source, folder)
    Manifest("onnx", "parent", recipe.to_json() if recipe else {"method": "float", "rules": []}).save(folder)
    return folder


def distance(decoder: Decoder, source: InMemoryWeights) -> float:
    """Relative error of the logits of 40 tokens against the float reference on the dequantized weights."""
    expected = LogitsHead(source).logits(hidden_states(source, IDS[None, :40])[0]).numpy()
    found = decoder.forward(IDS[None, :40], decoder.new_cache(40), keep=0)[0]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", RECIPES)
def test_exact_run_equals_dequantized_weights(tmp_path: Path, name: str) -> None:
    source = quantized(RECIPES[name])
    folder = write_artifact(tmp_path / "artifact", source, RECIPES[name])
    assert ActivationRounding.read(folder / MODEL_FILE).inseparable_reason is None
    assert distance(Decoder(folder, threads=1, exact_activations=True), source) < 1e-5
    assert distance(Decoder(folder, threads=1), source) > 1e-3


def test_rewriting_changes_accuracy_levels_and_nothing_else(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", quantized(RECIPES["int4 group 32"]), RECIPES["int4 group 32"])
    before = (folder / MODEL_FILE).read_bytes()
    expected = onnx.load_from_string(before)
    changed = 0
    for node in expected.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level" and attribute.i == 4:
                attribute.i, changed = 0, changed + 1
    assert changed > 0
    assert onnx.load_from_string(with_exact_activations(before)) == expected


def test_validate_real_artifact(tmp_path: Path) -> None:
    recipe = RECIPES["int4 group 32"]
    folder = write_artifact(tmp_path / "artifact", quantized(recipe), recipe)
    report = validate_artifact(folder, InMemoryWeights.random(), [Window("a", IDS), Window("b", IDS[:60])], threads=1)
    assert not report.failures
    assert report.overall.tokens == 258
    assert report.weights_part is not None
    assert report.activations_part is not None
    assert report.weights_part.mean_kl.value > 10 * report.activations_part.mean_kl.value > 0
    assert [check.name for check in report.checks][:2] == [
        "prefill_equals_decode_rounded", "prefill_equals_decode_exact",
    ]  # fmt: skip


def test_validate_float_artifact(tmp_path: Path) -> None:
    source = InMemoryWeights.random()
    folder = write_artifact(tmp_path / "artifact", source, None)
    report = validate_artifact(folder, source, [Window("a", IDS)], threads=1)
    assert not report.failures
    assert report.overall.mean_kl.value < 1e-9
    assert report.overall.max_logit_error < 1e-5
    assert report.weights_part is None
    skipped = next(check for check in report.checks if check.status == "skipped")
    assert skipped.reason == "no matrix product rounds its activations, so all error is the weights'"


def test_dynamic_int8_cannot_be_separated(tmp_path: Path) -> None:
    recipe = Recipe.for_format("int8-dynamic")
    folder = write_artifact(tmp_path / "artifact", quantized(recipe), recipe)
    reason = ActivationRounding.read(folder / MODEL_FILE).inseparable_reason
    assert reason is not None
    assert "compute with int8 activations only" in reason
    report = validate_artifact(folder, InMemoryWeights.random(), [Window("a", IDS)], threads=1)
    assert not report.failures
    assert report.activations_part is None


def test_other_model_as_reference(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", InMemoryWeights.random(), None)
    with pytest.raises(InputError, match=r"artifact: config\.json differs from the reference's"):
        validate_artifact(folder, InMemoryWeights.random(rope_theta=5e5), [Window("a", IDS)], threads=1)


def test_file_that_is_not_onnx(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.onnx: not an ONNX model"):
        ActivationRounding.read(path)
