"""A mixture of experts from checkpoint to answers: built, judged and run as dense models are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import q3edge
from q3edge.artifact import Manifest
from q3edge.errors import UsageError, ValidationError
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.exporters.onnx import linear
from q3edge.formats import EXPERT_OPERATORS, FORMATS, ExpertOperators
from q3edge.pipeline.build import BuildResult, build_artifact
from q3edge.quantization.recipe import Recipe
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.models import MOE, InMemoryWeights, write_checkpoint
from tests.helpers.runtime import write_tokenizer

# A dense layer among them, and a width of experts that groups of 256 do not divide.
SHAPE = MOE | {"num_hidden_layers": 3, "mlp_only_layers": [1], "moe_intermediate_size": 64}
MARGIN = 1e-3  # of two logits, below which sums in another order may decide


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("model") / "moe", **SHAPE)
    write_tokenizer(folder)
    return folder


def built(model: Path, output: Path, format_name: str, experts: ExpertOperators) -> BuildResult:
    recipe = None if format_name == "float" else Recipe.for_format(format_name)
    return build_artifact(str(model), output, recipe, experts=experts, max_tokens=256)


@pytest.mark.parametrize("experts", EXPERT_OPERATORS)
@pytest.mark.parametrize("format_name", ["float", *FORMATS])
def test_every_format_is_built(format_name: str, experts: ExpertOperators, model: Path, tmp_path: Path) -> None:
    found = built(model, tmp_path / "out", format_name, experts)
    assert isinstance(found.report, ValidationReport)
    assert found.report.failures == ()
    assert found.report.overall.mean_kl.value < (0.03 if "8" in format_name or format_name == "float" else 1.0)
    assert Manifest.load(tmp_path / "out").experts == experts
    notices = {notice.code: notice.count for notice in found.manifest.notices}
    assert notices.get("plain-experts") == (2 if experts == "plain" else None)
    by_block = format_name == "int8-dynamic" and experts == "qmoe"
    assert notices.get("experts-by-block") == (2 * 3 * 8 if by_block else None)


def test_the_error_of_weights_is_told_from_that_of_activations(model: Path, tmp_path: Path) -> None:
    report = built(model, tmp_path / "out", "int8", "qmoe").report
    assert isinstance(report, ValidationReport)
    assert report.weights_part is not None
    assert report.weights_part.mean_kl.value < report.overall.mean_kl.value


def test_greedy_tokens_are_the_references(model: Path, tmp_path: Path) -> None:
    built(model, tmp_path / "out", "float", "qmoe")
    source, decoder = InMemoryWeights.random(**SHAPE), Decoder(tmp_path / "out", threads=1)
    ids = np.random.default_rng(2).integers(2, 320, 7).tolist()
    cache, new = decoder.new_cache(64), ids
    for _ in range(30):
        found = decoder.forward(np.array([new]), cache)[0, -1]
        expected = LogitsHead(source).logits(hidden_states(source, np.array([ids]))[0, -1:]).numpy()[0]
        best = np.sort(expected)[-2:]
        assert found.argmax() == expected.argmax() or best[1] - best[0] < MARGIN
        new = [int(expected.argmax())]
        ids = ids + new


def test_an_int8_cache_and_all_ways_to_answer(model: Path, tmp_path: Path) -> None:
    q3edge.build(model, tmp_path / "out", "int4", kv_cache="int8", max_tokens=256)
    with q3edge.load(tmp_path / "out", deterministic=True) as loaded:
        prompts = ["the cat sat", "a dog", "on the mat and the log"]
        settings = GenerationSettings(12, temperature=0.0)
        alone = [loaded.chat(prompt, settings).text for prompt in prompts]
        assert [done.text for done in loaded.batch(prompts, settings)] == alone


def test_an_export_with_a_wrong_order_of_rows_is_never_promoted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "rows_in_turn", np.concatenate)
    with pytest.raises(ValidationError, match="the ONNX model's logits differ from the checkpoint's"):
        built(model, tmp_path / "out", "float", "qmoe")
    assert list(tmp_path.iterdir()) == []


def test_dense_models_have_no_plain_experts(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    with pytest.raises(UsageError, match="--experts plain: the model has no experts; leave it out"):
        q3edge.export(model, tmp_path / "out", as_float=True, experts="plain")
    assert not (tmp_path / "out").exists()


def test_the_command_builds_either_kind_and_they_answer_alike(model: Path, tmp_path: Path) -> None:
    answers = []
    for experts in EXPERT_OPERATORS:
        flags = ("--format", "float", "--experts", experts, "--json")
        build = run("build", str(model), "-o", experts, *flags, at=tmp_path)
        assert (build.returncode, json.loads(build.stdout)["metrics"]["experts"]) == (0, experts), build.stderr
        asked = run("run", experts, "the cat", "--temperature", "0", "--max-new-tokens", "8", at=tmp_path)
        assert asked.returncode == 0, asked.stderr
        answers.append(asked.stdout)
    assert answers[0] == answers[1]
    refused = run("build", str(model), "-o", "other", "--experts", "dense", at=tmp_path)
    assert refused.returncode == 2


def run(*arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "q3edge", *arguments], cwd=at, capture_output=True, text=True, check=False
    )
