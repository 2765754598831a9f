"""Two artifacts compared: nothing differs from itself, and every change has its line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from q3edge.artifact import Manifest
from q3edge.errors import InputError
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.measure.diff import ArtifactDiff, diff_artifacts
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_artifact, write_tokenizer

TOKENS = 256


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two formats of one small random model."""
    folder = tmp_path_factory.mktemp("diff")
    model = write_checkpoint(folder / "model")
    write_tokenizer(model)
    for name in ("int4", "int8"):
        quantize_checkpoint(str(model), folder / f"{name}-q", Recipe.for_format(name))
        export_artifact(str(folder / f"{name}-q"), folder / name)
    return {name: folder / name for name in ("int4", "int8")}


@pytest.fixture(scope="module")
def found(artifacts: dict[str, Path]) -> ArtifactDiff:
    return diff_artifacts(artifacts["int4"], artifacts["int8"], max_tokens=TOKENS, threads=1)


def test_an_artifact_does_not_differ_from_itself(artifacts: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(artifacts["int4"], tmp_path / "copy")
    same = diff_artifacts(artifacts["int4"], copy, max_tokens=TOKENS, threads=1)
    assert same.identical
    assert same.predictions is not None
    assert same.predictions.mean_kl.value == same.predictions.p999_kl.value == 0.0
    assert same.predictions.top1_agreement.value == 1.0
    assert same.predictions.max_logit_error == 0.0
    assert (same.schemes, same.files, same.versions, same.metrics) == ((), (), (), ())
    assert same.method is None
    assert all(change.a == change.b for change in same.sizes)


def test_every_change_of_scheme_is_counted(found: ArtifactDiff) -> None:
    assert not found.identical
    changes = {(change.a, change.b): change.tensors for change in found.schemes}
    assert changes == {("int4-g32-asym", "int8-g16"): 14, ("int8-g32", "int8-g16"): 1}
    assert found.schemes[0].first == "model.layers.0.self_attn.q_proj.weight"


def test_sizes_are_by_component_and_add_up_to_the_weights(artifacts: dict[str, Path], found: ArtifactDiff) -> None:
    sizes = {change.name: (change.a, change.b) for change in found.sizes}
    disk = sizes.pop("graph and weights on disk")
    assert set(sizes) == {"embed_tokens", "attention", "mlp", "norms"}
    assert disk == tuple(Manifest.load(folder).metrics["model_bytes"] for folder in artifacts.values())
    for side in (0, 1):
        assert sum(pair[side] for pair in sizes.values()) < disk[side]
    assert sizes["attention"][1] > 1.5 * sizes["attention"][0]


def test_predictions_and_metrics_tell_how_much(found: ArtifactDiff) -> None:
    assert found.predictions is not None
    assert 0 < found.predictions.mean_kl.value < 1
    assert found.predictions.tokens == TOKENS
    assert {"model_bytes", "bits_per_weight"} <= {change.name for change in found.metrics}
    assert "onnx/model.onnx_data" in {change.name for change in found.files}


def test_other_shapes_are_compared_without_predictions(artifacts: dict[str, Path], tmp_path: Path) -> None:
    other = write_artifact(tmp_path / "other", num_hidden_layers=3)
    manifest = Manifest.load(other)
    sealed = Manifest("onnx", "parent", Recipe((), "float").to_json(), metrics={"model_bytes": 1})
    sealed.save(other)
    assert manifest.kind == "onnx"
    found = diff_artifacts(artifacts["int4"], other, threads=1)
    assert found.predictions is None
    assert found.not_compared is not None
    assert "different shapes" in found.not_compared
    assert any(change.a == "absent" for change in found.schemes)


def test_a_changed_file_is_refused(artifacts: dict[str, Path], tmp_path: Path) -> None:
    damaged = shutil.copytree(artifacts["int4"], tmp_path / "damaged")
    (damaged / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json"):
        diff_artifacts(artifacts["int4"], damaged)
