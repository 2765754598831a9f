"""Fewer experts a token than a model was trained with: what is computed and recorded, and that it is never silent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from q3edge.artifact import Manifest
from q3edge.checkpoint import open_float_model
from q3edge.checkpoint.fewer_experts import choosing
from q3edge.errors import InputError, UsageError
from q3edge.evaluation.distance.chain import compare_models
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.statistics import summarize
from q3edge.evaluation.validation.checks import require_same_architecture
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.formats import EXPERT_OPERATORS, ExpertOperators
from q3edge.pipeline.build import BuildResult, build_artifact
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.measure.diff import diff_artifacts
from q3edge.pipeline.measure.measurement import MeasurementOptions
from q3edge.pipeline.measure.report import make_report
from q3edge.pipeline.measure.validate import text_windows
from q3edge.pipeline.sweep.variants import parse_variants
from q3edge.quantization.recipe import Recipe
from q3edge.report.gates import Gates
from tests.helpers.models import MOE, InMemoryWeights, write_checkpoint
from tests.helpers.runtime import write_tokenizer

SHAPE = MOE | {"num_experts_per_tok": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("model") / "moe", **SHAPE)
    write_tokenizer(folder)
    return folder


def built(model: Path, output: Path, chosen: int | None, experts: ExpertOperators = "qmoe") -> BuildResult:
    return build_artifact(str(model), output, None, experts=experts, experts_per_token=chosen, max_tokens=256)


@pytest.mark.parametrize("experts", EXPERT_OPERATORS)
def test_its_kl_is_from_the_model_with_its_own_experts(model: Path, tmp_path: Path, experts: ExpertOperators) -> None:
    found = built(model, tmp_path / "out", 2, experts)
    with open_float_model(model) as checkpoint:
        windows = text_windows(tmp_path / "out", checkpoint.config, (), 256)
        models = FloatReference(checkpoint), FloatReference(choosing(checkpoint, 2))
        expected = summarize(compare_models(windows, models)[0])
    assert isinstance(found.report, ValidationReport)
    assert found.report.text_kl.value == pytest.approx(expected.mean_kl.value, rel=1e-3)
    assert found.report.text_kl.value > 0.01
    assert not found.report.failures
    assert found.report.routing[0].agreement == 1.0  # those it chooses are the likeliest of the model's
    assert sum(found.report.routing[0].tokens) == 4 * found.report.overall.tokens


def test_it_is_recorded_and_said(model: Path, tmp_path: Path) -> None:
    manifest = built(model, tmp_path / "out", 2).manifest
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_experts_per_tok"] == 2
    assert Manifest.load(tmp_path / "out").fewer_experts == (2, 4)
    (notice,) = [notice for notice in manifest.notices if notice.code == "fewer-experts"]
    assert (notice.count, "in place of the 4" in notice.detail) == (2, True)
    assert "Each token goes to 2 experts, in place of the 4" in (tmp_path / "out" / "README.md").read_text()
    report = make_report([tmp_path / "out"], MeasurementOptions(speed=False), Gates(None, 10.0))
    assert report.recommendation.sentence.endswith("each token goes to 2 experts, in place of 4.")
    assert report.variants[0].formats.endswith("2 experts a token in place of 4")


def test_as_many_as_the_model_has_are_the_model(model: Path, tmp_path: Path) -> None:
    for name, chosen in (("own", None), ("same", 4)):
        export_artifact(str(model), tmp_path / name, as_float=True, experts_per_token=chosen)
    assert Manifest.load(tmp_path / "own") == Manifest.load(tmp_path / "same")
    assert Manifest.load(tmp_path / "own").fewer_experts is None
    export_artifact(str(model), tmp_path / "fewer", as_float=True, experts_per_token=3)
    found = diff_artifacts(tmp_path / "own", tmp_path / "fewer", max_tokens=64)
    assert found.predictions is not None
    assert found.predictions.mean_kl.value > 1e-4


def test_more_and_none_are_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    expected = "--experts-per-token 5: the model was trained with 4, and more would be slower and no better; give fewer"
    with pytest.raises(UsageError, match=expected):
        build_artifact(str(model), tmp_path / "out", Recipe.for_format("int4"), experts_per_token=5)
    dense = write_checkpoint(tmp_path / "dense")
    write_tokenizer(dense)
    with pytest.raises(UsageError, match="the model has no experts; leave it out"):
        export_artifact(str(dense), tmp_path / "out", as_float=True, experts_per_token=2)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_reference_with_fewer_experts_is_another_model() -> None:
    config = InMemoryWeights.random(**SHAPE).config
    require_same_architecture(Path("a"), config.choosing(3), config)
    with pytest.raises(InputError, match="differs from the reference's"):
        require_same_architecture(Path("a"), config, config.choosing(3))


def test_a_sweep_crosses_formats_with_experts() -> None:
    asked = parse_variants(["int4", "float", "nf4"], [4.5], "rtn", [4, 2])
    assert {variant.name: variant.experts_per_token for variant in asked} == {
        "int4-k4": 4, "int4-k2": 2, "float-k4": 4, "float-k2": 2, "nf4": None, "bpw-4.5-k4": 4, "bpw-4.5-k2": 2,
    }  # fmt: skip
    assert asked[0].recipe == asked[1].recipe == parse_variants(["int4"], (), "rtn")[0].recipe
    with pytest.raises(UsageError, match="int4-k2 and int4-k2 are the same"):
        parse_variants(["int4"], (), None, [2, 2])
