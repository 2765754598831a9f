"""`q3edge doctor`, `q3edge cache` and `--kernels` as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from q3edge.cli.main import main
from q3edge.kernels import library as kernels
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.storage.kept_folder import keep_origin

FOUND = kernels.library()
DEMO = str(files("q3edge.data") / "demo_model")
FAST = FOUND is not None and FOUND.instruction_sets[0] != kernels.PORTABLE  # auto takes ours


def q3edge(kept: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "q3edge", *map(str, arguments)]
    environment = {**os.environ, "Q3EDGE_CACHE": str(kept), **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    quantize_checkpoint(DEMO, folder / "q", Recipe.for_format("int4"))
    export_artifact(str(folder / "q"), folder / "x")
    return folder / "x"


def test_a_sound_installation(tmp_path: Path) -> None:
    done = q3edge(tmp_path / "kept", "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    used = f"q3edge ({FOUND.instruction_sets[0]})" if FOUND is not None and FAST else "onnxruntime"
    assert done.stdout.startswith(f"All that is needed works; models run with the kernels of {used}.\n")
    found = as_json(q3edge(tmp_path / "kept", "doctor", "--json"))
    assert found["problems"] == []
    assert found["cache"] == {
        "folder": str(tmp_path / "kept"), "writable": True,
        "sizes": {"kernels": 0, "experts": 0, "evaluations": 0, "verified": 0},
    }  # fmt: skip
    assert found["versions"]["onnxruntime"]
    assert found["kernels"]["used"] == used
    tested = [(test["instruction_set"], test["passed"], test["problem"]) for test in found["kernels"]["tests"]]
    assert tested == ([] if FOUND is None else [(name, True, "") for name in FOUND.instruction_sets])
    assert (found["kernels"]["obstacle"] == "") == (FOUND is not None)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"Q3EDGE_KERNELS": "fastest"}, "$Q3EDGE_KERNELS is 'fastest': choose auto"),
        ({"Q3EDGE_CACHE": "/proc/kept"}, "/proc/kept cannot be written: set Q3EDGE_CACHE"),
    ],
)
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
def test_what_is_broken_is_said_and_has_an_exit_code(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done = q3edge(tmp_path, "doctor", **variables)
    assert done.returncode == 4
    assert done.stdout.startswith(f"Something is broken.\n  broken: {said}")
    assert done.stderr.startswith(f"q3edge: {said}")
    found = json.loads(q3edge(tmp_path, "doctor", "--json", **variables).stdout)
    assert found["problems"][0].startswith(said)


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(None, 0, "was not built at installation"), (b"no library", 4, "cannot be loaded (")],
)
def test_why_there_are_no_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    content: bytes | None, code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("Q3EDGE_KERNELS", raising=False)
    path = tmp_path / "libq3edge_kernels.so"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(kernels, "LIBRARY", path)
    kernels.library.cache_clear()
    try:
        assert main(["doctor", "--json"]) == code
        found = json.loads(capfd.readouterr().out)
        assert main(["run", "x", "y", "--kernels", "q3edge"]) == 2
    finally:
        kernels.library.cache_clear()
    assert found["kernels"]["obstacle"].startswith(f"{path} {said}")
    assert found["kernels"]["used"] == "onnxruntime"
    assert bool(found["problems"]) == (code == 4)
    assert (f"q3edge: kernels 'q3edge': {path} {said}") in capfd.readouterr().err


@pytest.mark.skipif(FOUND is None, reason="the kernels were not built here")
def test_a_damaged_library_is_told_and_onnxruntimes_kernels_are_used(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("Q3EDGE_KERNELS", raising=False)
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    path = tmp_path / kernels.LIBRARY.name
    path.write_bytes(kernels.LIBRARY.read_bytes()[: kernels.LIBRARY.stat().st_size // 2])
    monkeypatch.setattr(kernels, "LIBRARY", path)
    command = ["run", str(artifact), "2+2=", "--raw", "--max-new-tokens", "2"]
    kernels.library.cache_clear()
    try:
        assert main(command) == 0
        said = f"with onnxruntime's kernels: {path} cannot be loaded (it is damaged): install q3edge again, or remove"
        assert said in " ".join(capfd.readouterr().err.split())
        assert main([*command, "--kernels", "onnxruntime"]) == 0
        assert str(path) not in capfd.readouterr().err
        assert main(["doctor"]) == 4
        assert f"broken: {path} cannot be loaded (it is damaged)" in " ".join(capfd.readouterr().out.split())
    finally:
        kernels.library.cache_clear()


def test_a_wrong_product_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from q3edge.kernels.self_test import products_differ

    if FOUND is None:
        pytest.skip("the kernels were not built here")
    for name in FOUND.instruction_sets:
        for bits in (4, 8):
            for symmetric in (True, False):
                assert products_differ(FOUND, name, bits=bits, symmetric=symmetric) == ""
    multiply = kernels.Library.multiply
    monkeypatch.setattr(kernels.Library, "multiply", lambda *given: multiply(*given) + 1)
    assert products_differ(FOUND, kernels.PORTABLE, bits=4, symmetric=True) == "4 bits: a product is 1 off"


def test_a_self_test_that_dies_is_no_end_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from q3edge.kernels.self_test import run_self_test

    if FOUND is None:
        pytest.skip("the kernels were not built here")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    tests = run_self_test(FOUND)
    assert [(test.passed, test.problem) for test in tests] == [(False, "the test ended with 1")] * len(tests)


def test_what_is_kept_is_listed_and_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = q3edge(kept, "cache")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"nothing is kept in {kept}\n")
    for kind, name, size in (("kernels", "k", 3_000_000), ("experts", "e", 500), ("evaluations", "float/f", 200)):
        (kept / kind / name).mkdir(parents=True)
        (kept / kind / name / "data").write_bytes(b"x" * size)
    rows = [line.split()[:2] for line in q3edge(kept, "cache").stdout.splitlines()[2:]]
    assert rows[0] == ["kernels/k", "3.0"]
    assert [name for name, _ in rows[1:3]] == ["experts/e", "evaluations/float/f"]
    found = as_json(q3edge(kept, "cache", "--json"))
    assert (found["bytes"], found["removed"], len(found["entries"])) == (3_000_700, False, 3)
    keep_origin(kept / "kernels" / "k", tmp_path / "model")
    shown = q3edge(kept, "cache").stdout.split()
    assert shown[shown.index(str(tmp_path / "model")) - 2 :][:2] == ["made", "of"]
    assert as_json(q3edge(kept, "cache", "--json"))["entries"][0]["of"] == str(tmp_path / "model")
    (kept / "kernels" / "k" / "model.json").unlink()
    done = q3edge(kept, "cache", "--clear", "experts")
    assert (done.returncode, done.stderr) == (0, f"removed 1 entry (0.0 MB) from {kept}\n")
    assert not (kept / "experts").exists()
    found = as_json(q3edge(kept, "cache", "--clear", "--json"))
    assert (found["bytes"], found["removed"]) == (3_000_200, True)
    assert as_json(q3edge(kept, "cache", "--json"))["entries"] == []
    assert q3edge(kept, "cache", "--clear", "models").returncode == 2


def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may remove everything")
    (tmp_path / "kernels" / "k").mkdir(parents=True)
    os.chmod(tmp_path / "kernels", 0o500)
    try:
        done = q3edge(tmp_path, "cache", "--clear")
    finally:
        os.chmod(tmp_path / "kernels", 0o700)
    assert done.returncode == 4
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("verb", ["run", "serve", "embed", "rerank", "bench"])
@pytest.mark.parametrize("wanted", ["fastest", "auto:portable", "q3edge:sse9"])
def test_what_is_no_choice_is_refused_before_anything_is_opened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], verb: str, wanted: str
) -> None:
    more = ["x", "y"] if verb == "rerank" else ["x"] if verb in ("run", "embed") else []
    assert main([verb, str(tmp_path / "missing"), *more, "--kernels", wanted]) == 2
    assert f"kernels {wanted}" in capfd.readouterr().err.replace("'", "")


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["onnxruntime", "q3edge:portable"])
def test_bench_and_validate_say_whose_kernels_they_used(artifact: Path, tmp_path: Path, wanted: str) -> None:
    if FOUND is None and wanted != "onnxruntime":
        pytest.skip("the kernels were not built here")
    kept, begin = tmp_path / "kept", "onnxruntime" if wanted == "onnxruntime" else "q3edge (portable, "
    bench = ["bench", artifact, "--kernels", wanted, "--prompt", 4, "--new", 2, "--depth", 0, "--repeats", 1]
    assert as_json(q3edge(kept, *bench, "--json"))["kernels"].startswith(begin)
    assert f"kernels: {begin.partition(' ')[0]}" in " ".join(q3edge(kept, *bench).stdout.split())
    assert (kept / "kernels").exists() == (wanted != "onnxruntime")
    validate = ["validate", artifact, "--reference", DEMO, "--max-tokens", 64, "--kernels", wanted]
    assert as_json(q3edge(kept, *validate, "--json"))["kernels"].startswith(begin)
    shown = " ".join(q3edge(kept, *validate).stdout.split())
    assert f"kernels: {begin}" in shown


@pytest.mark.slow
def test_an_evaluation_is_kept_for_its_kernels_alone(artifact: Path, tmp_path: Path) -> None:
    if FOUND is None:
        pytest.skip("the kernels were not built here")
    command = ["eval", artifact, "--reference", DEMO, "--limit", 1, "--areas", "math", "--json", "--kernels"]
    first, again, other = (
        q3edge(tmp_path / "kept", *command, wanted) for wanted in ("onnxruntime", "onnxruntime", "q3edge:portable")
    )
    assert [as_json(done)["settings"]["kernels"].partition(",")[0] for done in (first, again, other)] == [
        "onnxruntime", "onnxruntime", "q3edge (portable",
    ]  # fmt: skip
    assert ["evaluated before" in done.stderr for done in (first, again, other)] == [False, True, False]


def test_the_variable_and_the_flag_choose(artifact: Path, tmp_path: Path) -> None:
    done = q3edge(
        tmp_path / "kept", "run", artifact, "2+2=", "--raw", "--max-new-tokens", 2, Q3EDGE_KERNELS="onnxruntime"
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "kept" / "kernels").exists()
    if FOUND is None:
        return
    flags = ["--raw", "--max-new-tokens", 2, "--kernels", "q3edge:portable"]
    done = q3edge(tmp_path / "kept", "run", artifact, "2+2=", *flags, Q3EDGE_KERNELS="onnxruntime")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "kept" / "kernels").glob("*/matrices.bin"))) == 1
    assert f"packing the weights of {artifact}" in done.stderr
    again = q3edge(tmp_path / "kept", "run", artifact, "2+2=", *flags)
    assert "packing" not in again.stderr
