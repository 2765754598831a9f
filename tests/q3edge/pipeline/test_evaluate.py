"""`evaluate` on the embedded model: exact between equal models, resumed where it was killed, never computed twice."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import q3edge.evaluation.distance.references as references
from q3edge import progress
from q3edge.artifact import Manifest, artifact_digest
from q3edge.checkpoint import Checkpoint
from q3edge.errors import InputError, UsageError, ValidationError
from q3edge.evaluation.cache import EvaluationCache
from q3edge.evaluation.scorecard.reading_journal import ReadingJournal
from q3edge.evaluation.scorecard.scorecard import Scorecard, scorecard_from_json
from q3edge.evaluation.suites.suite import Item, Suite
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.evaluation.validation.results import CheckResult, require_passed
from q3edge.evaluation.validation.routing import MIN_FLOAT_AGREEMENT
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.measure import answers
from q3edge.pipeline.measure.evaluate import evaluate
from q3edge.pipeline.measure.measurement import AnswerOptions
from q3edge.pipeline.measure.validate import validate_against
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.model import Model
from q3edge.runtime.text.thinking import ThinkingTokens
from tests.helpers.artifacts import overwritten
from tests.helpers.models import write_checkpoint

DEMO = str(files("q3edge.data") / "demo_model")
CHOICES = Suite(
    "choices",
    tuple(
        Item(f"c{i}", "choice", "knowledge", "en", f"Which is {i}?\nA. x\nB. y", "B", "B", choices=("x", "y"))
        for i in range(6)
    ),
    "00",
    "test",
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "int4"
    build_artifact(DEMO, folder, replace(Recipe.for_format("int4"), method="rtn"), max_tokens=64)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluations"


def forbidden(*_: object, **__: object) -> Any:
    raise AssertionError("computed again")


def run(artifact: Path, reference: str = DEMO, **options: Any) -> Scorecard:
    """On short items of two suites; one thread, as these products lose more to waiting for a second one."""
    return evaluate(artifact, reference, [built_in_suites()[0], CHOICES], limit=6, threads=1, **options)


def without_time(scorecard: Scorecard) -> Scorecard:
    return replace(scorecard, seconds=0.0, timing={})


def test_int4_against_float(artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suites = [*built_in_suites(), CHOICES]
    found = evaluate(artifact, DEMO, suites, limit=5, threads=1)
    assert scorecard_from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert (found.artifact, found.reference) == ("int4", "demo_model")
    assert set(found.suites) == set(found.suite_digests) == {"built-in questions", "built-in texts", "choices"}
    assert found.suites["choices"].metric == "accuracy"
    assert {name: found.suites[name].items for name in found.suites} == dict.fromkeys(found.suites, 5)
    assert (
        sum(part.items for part in found.languages.values()) == sum(part.items for part in found.areas.values()) == 15
    )
    assert found.overall is not None
    assert found.histogram is not None
    assert 0 < found.overall.mean_kl.value < 1
    assert sum(found.histogram.counts) == found.overall.tokens
    assert len(found.worst) == 10
    assert [example.kl for example in found.worst] == sorted((example.kl for example in found.worst), reverse=True)
    assert all(len(example.reference_next) == len(example.candidate_next) == 5 for example in found.worst)
    assert sum(found.area_weights.values()) == pytest.approx(1)
    assert not [check for check in found.checks if check.status == "fail"]
    assert found.timing["total_over_models"] > 1
    require_passed("artifact", found.checks)
    assert not list((cache / "unfinished").iterdir())

    monkeypatch.setattr("q3edge.pipeline.measure.evaluate.read_all", forbidden)
    assert evaluate(artifact, DEMO, suites, limit=5, threads=1) == found


def test_models_that_are_asked_also_go_on_from_the_worst_places(artifact: Path, cache: Path) -> None:
    found = evaluate(artifact, DEMO, limit=8, asking=AnswerOptions(max_new_tokens=4), threads=1)
    assert found.mode == "generated"
    assert len(found.worst) == 10
    stops = {"<|im_end|>", "<|endoftext|>"}
    for example in found.worst:
        for text, following in (
            (example.reference_text, example.reference_next),
            (example.candidate_text, example.candidate_next),
        ):
            likely = [token for token, _ in following[:2]]  # the second where both are as good as equal
            assert text.startswith(tuple(likely)) or (not text and stops & set(likely))
    assert sum(len(example.candidate_text) > 20 for example in found.worst) > 3


def test_answers_with_thinking_budgets_are_part_of_the_evaluation(
    artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = AnswerOptions(max_new_tokens=40, thinking_budgets=(0, 4, None))
    found = run(artifact, asking=asking)
    budgets = found.thinking_budgets
    assert budgets is not None
    assert [result.budget for result in budgets.results] == [0, 4, None]
    assert budgets.timed_on["threads"] == "1"
    assert {name.partition(":")[0] for name in budgets.questions} == {"built-in questions", "choices"}
    assert scorecard_from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert run(artifact).thinking_budgets is None
    with monkeypatch.context() as patch:
        patch.setattr(Model, "chat", forbidden)
        assert run(artifact, asking=asking) == found
        shutil.rmtree(cache / "scorecards")
        assert without_time(run(artifact, asking=asking)) == without_time(found)  # the answers are kept one by one
    monkeypatch.setattr("q3edge.pipeline.measure.evaluate.read_all", forbidden)  # it is told before anything is read
    monkeypatch.setattr(ThinkingTokens, "of", lambda _: None)
    with pytest.raises(UsageError, match="no <think> and </think>"):
        run(artifact, asking=AnswerOptions(max_new_tokens=41, thinking_budgets=(0,)))


def _flip(folder: Path) -> None:
    weights = folder / "onnx" / "model.onnx_data"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def _replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "q3edge.json").unlink(),
        lambda folder: (folder / "q3edge.json").write_text(""),
        lambda folder: (folder / "tokenizer.json").unlink(),
        _flip,
        _replace_by_file,
        _empty,
    ],
    ids=["no manifest", "empty manifest", "no tokenizer", "flipped bit", "a file", "empty folder"],
)
def test_a_damaged_float_model_in_the_cache_is_exported_again(
    damage: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(progress, "note", notes.append)
    kept = EvaluationCache(tmp_path / "kept")

    def digest() -> str:
        with answers._artifact_for(Path(DEMO), "d", kept) as folder:
            Manifest.load(folder).verify(folder)
            return artifact_digest(folder)

    expected = digest()
    damage(kept.float_folder("d"))
    assert digest() == expected
    assert notes == ["the float model in the cache is damaged, it is exported again"]
    monkeypatch.setattr(answers, "export_artifact", forbidden)
    assert digest() == expected


def test_artifact_against_itself(artifact: Path, cache: Path) -> None:
    found = run(artifact, str(artifact), use_cache=False)
    assert found.overall is not None
    assert found.recovery is not None
    assert found.histogram is not None
    assert found.overall.p999_kl.value == found.overall.mean_kl.value == found.overall.max_logit_error == 0
    assert found.overall.top1_agreement.value == 1
    assert found.recovery.value == 100
    for part in (*found.areas.values(), *found.languages.values(), *found.suites.values()):
        assert part.reference_score == part.candidate_score
        assert part.recovery is None or {part.recovery.value, part.recovery.low, part.recovery.high} <= {100, None}
    assert found.histogram.counts[0] == found.overall.tokens
    assert found.worst == ()
    assert not cache.exists()


def test_killed_run_goes_on(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, done = ReadingJournal.append, list[int]()

    def killed_after_five(self: ReadingJournal, passage: int, reading: Any) -> None:
        if len(done) == 5:
            raise KeyboardInterrupt
        append(self, passage, reading)
        done.append(passage)

    with monkeypatch.context() as patch:
        patch.setattr(ReadingJournal, "append", killed_after_five)
        with pytest.raises(KeyboardInterrupt):
            run(artifact)
    resumed = run(artifact)
    assert resumed.timing["resumed_items"] == 5
    assert resumed.timing["cached_tokens"] > 0
    fresh = run(artifact, use_cache=False)
    assert without_time(resumed) == without_time(fresh)


def _rewritten_while(model: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """From now on the checkpoint is overwritten by the same bytes at the end of what `function` does."""
    module, _, name = function.rpartition(".")
    original = getattr(sys.modules[module], name)

    def rewriting(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        path = model / "model.safetensors"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        return result

    monkeypatch.setattr(function, rewriting)


@pytest.mark.parametrize("function", ["evaluate.read_all", "evaluate.encode_suites"])
def test_r16_a_reference_that_changes_while_it_is_read_is_noticed_and_nothing_is_kept(
    function: str, artifact: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    _rewritten_while(model, monkeypatch, f"q3edge.pipeline.measure.{function}")
    for kept in (True, False):
        with pytest.raises(InputError, match=r"model\.safetensors: was changed while it was read"):
            run(artifact, str(model), use_cache=kept)
    assert not list((cache / "unfinished").iterdir())
    assert not (cache / "scorecards").exists()
    assert (cache / "hidden").exists() == (function == "evaluate.read_all")


def test_r16_validation_notices_it_too(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    _rewritten_while(model, monkeypatch, "q3edge.pipeline.measure.validate.validate_artifact")
    with pytest.raises(InputError, match=r"model\.safetensors: was changed while it was read"):
        validate_against(artifact, str(model), max_tokens=32)


def test_zeroed_matrix_is_flagged_and_the_float_model_does_not_run_again(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(artifact)
    monkeypatch.setattr(references, "hidden_states", forbidden)
    dead = overwritten(artifact, tmp_path / "dead", "model.layers.1.mlp.down_proj.codes", bytes, slice(None))
    found = run(dead)
    (check,) = [check for check in found.checks if check.name == "dead_matrices"]
    assert (check.status, check.value) == ("fail", 1.0)
    assert found.timing["cached_tokens"] == found.timing["tokens"]
    with pytest.raises(ValidationError, match=r"1 weights are all zero or all alike: model\.layers\.1\.mlp\.down_proj"):
        require_passed("dead", found.checks)


def test_q5_a_model_with_a_zero_matrix_is_built_and_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Checkpoint.read

    def zeroed(self: Checkpoint, tensor: str, rows: slice | None = None) -> Any:
        values = read(self, tensor, rows)
        return np.zeros_like(values) if tensor.endswith("layers.0.self_attn.k_proj.weight") else values

    monkeypatch.setattr(Checkpoint, "read", zeroed)
    recipe = replace(Recipe.for_format("int4"), method="rtn")
    built = build_artifact(DEMO, tmp_path / "a", recipe, max_tokens=32)
    for checks in (built.report.checks, run(tmp_path / "a").checks):
        (check,) = [check for check in checks if check.name == "dead_matrices"]
        assert (check.status, check.reason) == ("pass", "1 weights are alike throughout, in the reference too")
    monkeypatch.undo()
    report = validate_against(tmp_path / "a", DEMO, max_tokens=32)
    assert "dead_matrices" in [check.name for check in report.failures]


def test_routing_of_a_mixture_is_compared_with_the_float_models(tmp_path: Path) -> None:
    mixture = str(files("q3edge.data") / "demo_moe")
    recipe = replace(Recipe.for_format("int4"), method="rtn")
    quantize_checkpoint(mixture, tmp_path / "q", recipe)
    export_artifact(str(tmp_path / "q"), tmp_path / "int4")
    export_artifact(mixture, tmp_path / "float", as_float=True)

    def routing(artifact: Path, reference: str) -> list[CheckResult]:
        return [check for check in run(artifact, reference).checks if check.name == "routing"]

    (rounded,), (exact,) = routing(tmp_path / "int4", mixture), routing(tmp_path / "float", mixture)
    assert (exact.status, exact.limit) == ("pass", MIN_FLOAT_AGREEMENT)
    assert exact.value is not None
    assert rounded.value is not None
    assert exact.value > MIN_FLOAT_AGREEMENT > rounded.value > 0.8
    assert rounded.limit is None
    assert routing(tmp_path / "int4", str(tmp_path / "float")) == []  # an artifact's routers are not asked


def test_logits_that_are_not_numbers(artifact: Path, tmp_path: Path) -> None:
    broken = overwritten(
        artifact, tmp_path / "b", "model.layers.0.mlp.down_proj.exponents", lambda n: b"\x7f" * n, slice(None)
    )
    with pytest.raises(ValidationError, match="NaN or infinite in 4 of 4 items"):
        evaluate(broken, DEMO, [CHOICES], limit=4)


def test_areas_are_chosen(artifact: Path) -> None:
    found = run(artifact, areas=["math", "safety"])
    assert found.area_weights == {"math": 25 / 30, "safety": 5 / 30}
    assert found.settings["areas"] == ["math", "safety"]
    with pytest.raises(UsageError, match="area 'maths'"):
        run(artifact, areas=["maths"])


def test_another_architecture_is_refused(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json differs from the reference's"):
        run(artifact, str(write_checkpoint(tmp_path / "other")))
