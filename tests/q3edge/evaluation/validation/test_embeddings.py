"""Validation of embedding models: numbers that are known from elsewhere, and damage that it has to find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import q3edge
from q3edge.artifact import Manifest
from q3edge.cli.tables.tables import validation_table
from q3edge.errors import InputError, UsageError
from q3edge.evaluation.validation.embeddings import EmbeddingReport, validate_embeddings
from q3edge.pipeline.export import export_artifact
from q3edge.quantization.recipe import Recipe
from tests.helpers.artifacts import overwritten
from tests.helpers.embedding import write_embedding_checkpoint
from tests.helpers.models import InMemoryWeights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedding_checkpoint(tmp_path_factory.mktemp("validation") / "checkpoint")


@pytest.fixture(scope="module")
def built(checkpoint: Path) -> Path:
    q3edge.build(checkpoint, checkpoint.parent / "int4", "int4", method="gptq", samples=8, seq_len=64, threads=1)
    return checkpoint.parent / "int4"


def test_a_build_measures_its_vectors_and_says_so(built: Path, checkpoint: Path) -> None:
    manifest = Manifest.load(built)
    recorded = manifest.metrics["embedding_validation"]
    assert manifest.kind == "embedding"
    assert "genai_config.json" not in manifest.files
    assert {"modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"} < manifest.files.keys()
    report = q3edge.validate(built, checkpoint, threads=1)
    assert isinstance(report, EmbeddingReport)
    assert json.loads(json.dumps(report.to_json())) == recorded
    assert report.lowest_cosine < report.cosine.value
    assert 0.9 < report.cosine.value < 0.9999
    assert report.weights_part is not None
    assert report.activations_part is not None
    assert report.cosine.value < report.activations_part < 1
    assert not report.failures
    assert report.verdict in validation_table(report)
    card = (built / "README.md").read_text()
    assert "q3edge embed ." in card
    assert f"{100 * report.nearest.value:.3g} %" in card


def test_the_table_is_rounded_to_nearest_as_nothing_multiplies_by_it(built: Path, checkpoint: Path) -> None:
    report = Manifest.load(built).metrics["tensors"]
    assert "model.layers.0.mlp.down_proj.weight" in report
    assert "model.embed_tokens.weight" not in report


def test_a_float_export_keeps_every_neighbour(checkpoint: Path, tmp_path: Path) -> None:
    export_artifact(str(checkpoint), tmp_path / "float", as_float=True)
    report = q3edge.validate(tmp_path / "float", checkpoint, threads=1)
    assert isinstance(report, EmbeddingReport)
    assert (report.nearest.value, report.neighbours.value) == (1, 1)
    assert {check.name: check.status for check in report.checks} == dict.fromkeys(
        ("padding", "float_vectors", "dead_matrices"), "pass"
    )
    damaged = overwritten(
        tmp_path / "float", tmp_path / "damaged", "model.layers.1.mlp.down_proj",
        lambda size: np.zeros(size // 4, np.float32).tobytes(), slice(None),
    )  # fmt: skip
    broken = q3edge.validate(damaged, checkpoint, threads=1)
    assert {check.name for check in broken.failures} == {"float_vectors", "dead_matrices"}
    assert broken.verdict.startswith(("worse than float", "unusable"))


def test_what_is_for_language_models_is_refused(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-kl is for predictions"):
        q3edge.validate(built, checkpoint, max_kl=0.1)
    with pytest.raises(UsageError, match="--kv int8: an embedding model keeps no keys"):
        q3edge.build(checkpoint, tmp_path / "x", kv_cache="int8")
    with pytest.raises(UsageError, match="--tune, --target-size and --target-bpw"):
        q3edge.quantize(checkpoint, tmp_path / "x", tune=True)
    with pytest.raises(UsageError, match="--last-logits: an embedding model gives no logits"):
        q3edge.export(checkpoint, tmp_path / "x", as_float=True, last_logits=True)
    with pytest.raises(UsageError, match="an embedding model, which predicts no tokens to compare variants by"):
        q3edge.sweep(checkpoint, tmp_path / "x", formats="int8")
    for refused in (lambda: q3edge.bench(built), lambda: q3edge.evaluate(built, checkpoint)):
        with pytest.raises(InputError, match=r"holds an embedding model, .*: q3edge embed "):
            refused()
    with pytest.raises(InputError, match="2 passages of text; expected at least 3"):
        validate_embeddings(built, InMemoryWeights.random(architectures=["Qwen3Model"]), [[1], [2]])


def test_inspect_says_what_a_checkpoint_is(checkpoint: Path, tmp_path: Path) -> None:
    found = q3edge.inspect(checkpoint)
    assert (found.kind, found.kv_bytes_per_token) == ("embedding model", 0)
    assert all(prediction.tokens_per_second is None for prediction in found.predictions)
    by_format = {prediction.format: prediction for prediction in found.predictions}
    manifest = export_artifact(str(checkpoint), tmp_path / "float", as_float=True)
    assert by_format["float"].disk_bytes == manifest.model_bytes
    assert Recipe.for_format("int4").fitted_to(found.config)[0].resolve(found.config).keys() == set(
        InMemoryWeights.random().tensors
    )
