"""A sweep builds what is missing, goes on where it was, and reports what failed; gates read what it wrote."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from q3edge import progress
from q3edge.artifact import Manifest
from q3edge.errors import InputError, ResourceError, UsageError, ValidationError
from q3edge.evaluation.cache import EvaluationCache, cache_folder
from q3edge.evaluation.distance import references
from q3edge.evaluation.distance.references import window_states
from q3edge.evaluation.scorecard.scorecard import scorecard_from_json
from q3edge.evaluation.validation.results import require_passed
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.measure.diff import diff_artifacts
from q3edge.pipeline.measure.gate import check_artifact
from q3edge.pipeline.measure.measurement import MeasurementOptions
from q3edge.pipeline.measure.report import make_report, unique_names
from q3edge.pipeline.sweep import builds as sweep_builds
from q3edge.pipeline.sweep.sweep import SweepResult, run_sweep
from q3edge.pipeline.sweep.variants import parse_variants
from q3edge.report.gates import Gates
from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_tokenizer

FORMATS = ["int8", "int4-g128", "torch-int8"]  # the second does not fit the model's width of 64
LENIENT = Gates(min_recovery=1.0, max_kl=5.0)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("Q3EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    write_tokenizer(folder)
    return folder


def swept(model: Path, output: Path, formats: list[str] = FORMATS, **options: Any) -> SweepResult:
    measuring = MeasurementOptions(str(model), areas=("math",), limit=5, speed=False, threads=1)
    return run_sweep(output, parse_variants(formats, method="rtn"), measuring, LENIENT, **options)


@pytest.fixture(scope="module")
def output(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    result = swept(model, folder)
    assert result.resumed == ()
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is built from now on."""
    names: list[str] = []

    def counting(model: str, output: Path, *rest: Any, **named: Any) -> Any:
        names.append(output.name)
        return build_artifact(model, output, *rest, **named)

    monkeypatch.setattr(sweep_builds, "build_artifact", counting)
    return names


def test_what_fails_is_a_row_and_the_others_go_on(output: Path) -> None:
    raw = json.loads((output / "report.json").read_text())
    assert [variant["name"] for variant in raw["variants"]] == ["int8", "torch-int8"]
    assert [failure["name"] for failure in raw["failures"]] == ["int4-g128"]
    assert "group size 128 does not divide the width 64" in raw["failures"][0]["reason"]
    assert not (output / "int4-g128").exists()
    assert raw["recommendation"]["name"] == "int8"
    for variant in raw["variants"]:
        assert variant["scorecard"]["overall"]["mean_kl"]["value"] > 0
    for name in ("report.html", "report.md"):
        text = (output / name).read_text(encoding="utf-8")
        assert "group size 128" in text
        assert str(output) not in text


def test_the_float_models_states_are_computed_once_for_all_variants_and_change_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "cache"))
    computed: list[int] = []

    def counting(source: Any, windows: Any, **named: Any) -> Any:
        computed.append(len(windows))
        return window_states(source, windows, **named)

    monkeypatch.setattr(references, "window_states", counting)
    found = {}
    for cache in (False, True):
        computed.clear()
        states = EvaluationCache(tmp_path / "states") if cache else None
        jobs = [
            sweep_builds.job_for(asked, str(model), tmp_path / str(cache), None, 1, states)
            for asked in parse_variants(["int8", "int4-g32"], method="rtn")
        ]
        assert all(reason is None for _, reason in sweep_builds.build_all(jobs, 1))
        found[cache] = len(computed), [Manifest.load(job.output).metrics["validation"] for job in jobs]
    assert found[False][0] - found[True][0] == 1  # those of the second model
    assert found[False][1] == found[True][1]


def test_a_sweep_gives_its_builds_the_cache_unless_it_is_off(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def refusing(*_: Any, reference_states: Any, **__: Any) -> Any:
        given.append(reference_states)
        raise InputError("not built")

    monkeypatch.setattr(sweep_builds, "build_artifact", refusing)
    for cache in (True, False):
        measuring = MeasurementOptions(str(model), speed=False, threads=1, cache=cache)
        run_sweep(tmp_path / str(cache), parse_variants(["int8"], method="rtn"), measuring, LENIENT)
    assert given == [EvaluationCache(cache_folder()), None]


def test_u14_a_baseline_without_its_library_is_told_before_anything_is_built(
    model: Path, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    expected = r"^nf4: this needs the package bitsandbytes: pip install .*, or leave it out of --formats$"
    with pytest.raises(ResourceError, match=expected):
        swept(model, tmp_path / "out", ["int8", "nf4"])
    monkeypatch.setattr("q3edge.evaluation.baselines.torch", SimpleNamespace(ao=SimpleNamespace()))
    with pytest.raises(ResourceError, match=r"^torch-int8: this torch has no torch\.ao\.quantization"):
        swept(model, tmp_path / "out", ["int8", "torch-int8"])
    assert built == []
    assert not (tmp_path / "out").exists()


def test_r14_without_shared_memory_models_are_built_one_after_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refused)
    monkeypatch.setattr(sweep_builds, "_build", lambda job, threads: None)
    notes: list[str] = []
    monkeypatch.setattr(progress, "note", notes.append)
    jobs = [sweep_builds.job_for(v, str(model), tmp_path, None, 1) for v in parse_variants(["int8", "int4"])]
    assert list(sweep_builds.build_all(jobs, 2)) == [("int8", None), ("int4", None)]
    assert notes[0] == (
        "models cannot be built side by side here (no shared memory: Read-only file system): they are built one after "
        "another"
    )


def test_the_same_sweep_builds_nothing_again(model: Path, output: Path, built: list[str]) -> None:
    before = json.loads((output / "report.json").read_text())
    result = swept(model, output)
    assert result.resumed == ("int8",)
    assert built == ["int4-g128"]  # which fails again
    assert json.loads((output / "report.json").read_text()) == before


def test_a_sweep_that_was_killed_goes_on(model: Path, output: Path, built: list[str], tmp_path: Path) -> None:
    copy = shutil.copytree(output, tmp_path / "copy")
    ledger = json.loads((copy / "sweep.json").read_text())
    del ledger["sha256"]  # as an earlier q3edge wrote it
    ledger["variants"]["int8"] = {"request": "", "artifact": ""}  # begun, and killed before it was recorded
    (copy / "sweep.json").write_text(json.dumps(ledger))
    result = swept(model, copy, ["int8", "int4"])
    assert result.resumed == ()
    assert built == ["int8", "int4"]
    assert {variant.name for variant in result.report.variants} == {"int8", "int4"}
    assert swept(model, copy, ["int8", "int4"]).resumed == ("int8", "int4")


def test_another_model_or_a_changed_folder_is_built_again(
    model: Path, output: Path, built: list[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(output, tmp_path / "copy")
    other = write_checkpoint(tmp_path / "other", seed=5)
    write_tokenizer(other)
    assert swept(other, copy, ["int8"]).resumed == ()
    shutil.rmtree(copy / "int8")
    assert swept(other, copy, ["int8"]).resumed == ()
    assert built == ["int8", "int8"]


@pytest.mark.parametrize("damage", ["flipped byte", "missing"])
def test_a_damaged_variant_is_built_again(
    damage: str,
    model: Path,
    output: Path,
    built: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(progress, "note", notes.append)
    copy = shutil.copytree(output, tmp_path / "copy")
    weights = copy / "int8" / "onnx" / "model.onnx_data"
    sound = weights.read_bytes()
    if damage == "missing":
        (copy / "int8" / "onnx" / "model.onnx").unlink()
    else:
        weights.write_bytes(sound[:99] + bytes([sound[99] ^ 1]) + sound[100:])
    result = swept(model, copy, ["int8"])
    assert (result.resumed, result.report.failures, built) == ((), (), ["int8"])
    assert weights.read_bytes() == sound
    Manifest.load(copy / "int8").verify(copy / "int8")
    assert "int8: a file in it was changed or damaged, built again" in notes
    assert swept(model, copy, ["int8"]).resumed == ("int8",)


def test_a_folder_that_no_sweep_made_is_left_alone(model: Path, output: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(output, tmp_path / "copy")
    (copy / "int4").mkdir()
    result = swept(model, copy, ["int8", "int4"])
    assert [failure.name for failure in result.report.failures] == ["int4"]
    assert list((copy / "int4").iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(UsageError, match="no sweep made it"):
        swept(model, tmp_path / "mine")


def test_a_damaged_ledger_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"sweep\.json"):
        swept(model, tmp_path)


def test_a_report_of_the_same_artifacts_has_the_same_scorecards(model: Path, output: Path) -> None:
    measuring = MeasurementOptions(str(model), areas=("math",), limit=5, speed=False, threads=1)
    report = make_report([output / "int8"], measuring, LENIENT)
    raw = json.loads((output / "report.json").read_text())
    assert json.loads(json.dumps(report.to_json()))["variants"][0] == raw["variants"][0]


def test_without_a_reference_a_report_tells_what_build_measured(output: Path) -> None:
    report = make_report([output / "int8"], MeasurementOptions(speed=False), Gates(None, 5.0))
    (variant,) = report.variants
    assert variant.recovery is None
    assert report.kl == "text_kl"
    assert variant.mean_kl("text_kl") is not None
    assert variant.mean_kl("suite_kl") is None
    assert report.gates.rule(report.kl) == "a mean KL on the build's text of at most 5 nats"
    assert "give --reference" in variant.missing[0]
    assert report.recommendation.name == "int8"


def test_what_was_made_before_the_kls_had_names_is_still_read(output: Path, tmp_path: Path) -> None:
    old = shutil.copytree(output / "int8", tmp_path / "old")
    manifest = Manifest.load(old)
    validation = {name: found for name, found in manifest.metrics["validation"].items() if name != "text_kl"}
    assert len(validation) == len(manifest.metrics["validation"]) - 1
    replace(manifest, metrics={**manifest.metrics, "validation": validation}).save(old)
    here, gates = MeasurementOptions(speed=False), Gates(None, 5.0)
    by_old, by_new = (check_artifact(folder, gates, here) for folder in (old, output / "int8"))
    assert by_old.text_kl == by_new.text_kl
    assert make_report([old], here, gates).variants[0].mean_kl("text_kl") == by_new.text_kl
    assert diff_artifacts(old, output / "int8", max_tokens=32, threads=1).metrics == ()
    card = json.loads((output / "report.json").read_text())["variants"][0]["scorecard"]
    assert scorecard_from_json(card).suite_kl is not None  # the report's own, which do not name it either
    assert scorecard_from_json(scorecard_from_json(card).to_json()) == scorecard_from_json(card)


def test_q5_a_gate_does_not_pass_what_looks_broken(output: Path, tmp_path: Path) -> None:
    raw = json.loads((output / "report.json").read_text())
    (card,) = [v["scorecard"] for v in raw["variants"] if v["name"] == "int8"]
    card["checks"][0] |= {"status": "fail", "reason": "1 weights are all zero or all alike"}
    (tmp_path / "r.json").write_text(json.dumps(raw))
    found = check_artifact(output / "int8", LENIENT, MeasurementOptions(speed=False), scorecard=tmp_path / "r.json")
    assert [failure.reason for failure in found.failures] == ["1 weights are all zero or all alike"]


def test_gates_by_the_report_the_manifest_and_now(model: Path, output: Path) -> None:
    folder, here = output / "int8", MeasurementOptions(speed=False)
    by_file = check_artifact(folder, LENIENT, here, scorecard=output / "report.json")
    now = MeasurementOptions(str(model), areas=("math",), limit=5, threads=1)
    assert check_artifact(folder, LENIENT, now).recovery == by_file.recovery
    assert (by_file.kl, by_file.text_kl) == ("suite_kl", None)
    assert by_file.results[0].name == "max_suite_kl"
    require_passed(by_file.artifact, by_file.results)
    strict = check_artifact(folder, Gates(None, 1e-9), here)
    assert (strict.kl, strict.suite_kl) == ("text_kl", None)
    with pytest.raises(ValidationError, match=r"mean KL on the build's text .* at most 1e-09 asked for"):
        require_passed(strict.artifact, strict.results)
    with pytest.raises(UsageError, match="recovery was not measured"):
        check_artifact(folder, Gates(97, None), here)


def test_a_scorecard_of_another_artifact_is_refused(output: Path, tmp_path: Path) -> None:
    raw = json.loads((output / "report.json").read_text())
    raw["variants"][0]["scorecard"]["artifact_digest"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(raw))
    (tmp_path / "none.json").write_text('{"some": "thing"}')
    for name, words in (
        ("other.json", "made from another"),
        ("none.json", "not a scorecard"),
        ("no.json", "not found"),
    ):
        with pytest.raises(InputError, match=words):
            check_artifact(output / "int8", LENIENT, MeasurementOptions(), scorecard=tmp_path / name)


def test_names_are_told_apart_by_the_parent(tmp_path: Path) -> None:
    assert unique_names([tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "y"]) == ["a/x", "b/x", "y"]
    with pytest.raises(UsageError, match="given twice"):
        unique_names([tmp_path, tmp_path])


@pytest.mark.slow
def test_several_at_a_time_give_the_same_artifacts(model: Path, output: Path, tmp_path: Path) -> None:
    result = swept(model, tmp_path / "out", ["int8", "int4", "int4-g128"], jobs=2)
    assert [failure.name for failure in result.report.failures] == ["int4-g128"]
    manifest = (tmp_path / "out" / "int8" / "q3edge.json").read_bytes()
    assert manifest == (output / "int8" / "q3edge.json").read_bytes()
