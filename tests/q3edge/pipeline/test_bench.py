"""`q3edge bench` on the embedded model: what is counted exactly, and what is only known to be possible."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec
from q3edge.cli.tables.tables import bench_table
from q3edge.errors import InputError, UsageError
from q3edge.kernels.library import library
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.footprint import resident_bytes, weight_bytes_per_token
from q3edge.pipeline.measure import bench
from q3edge.pipeline.measure.bench import BenchResult, bench_artifact
from q3edge.pipeline.measure.bench_process import Notes
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.progress import Silent, report_to
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from q3edge.runtime.session.kernels import PACKING
from tests.helpers.models import MOE, InMemoryWeights, write_checkpoint

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    quantize_checkpoint(str(DEMO_MODEL), folder / "q", Recipe.for_format("int4"))
    export_artifact(str(folder / "q"), folder / "x")
    return folder / "x"


@pytest.fixture(scope="module")
def result(artifact: Path) -> BenchResult:
    return bench_artifact(artifact, prompt=64, new=8, depths=(64, 0), threads=1, repeats=2)


def test_every_figure_is_there_and_possible(result: BenchResult) -> None:
    assert [found.depth for found in result.depths] == [0, 64]
    assert 0 < result.load.median < result.first_token.median
    for found in (result.load, result.first_token, result.prefill_tokens_per_second):
        assert 0 < found.low <= found.median <= found.high
    for depth in result.depths:
        assert depth.tokens_per_second.low > 0
        read = depth.tokens_per_second.median * depth.bytes_per_token
        assert depth.bandwidth_share == pytest.approx(read / result.read_bandwidth)  # above 1 where others read as well
        assert result.model_bytes < depth.peak_bytes.low < 2e9
    assert json.loads(json.dumps(result.to_json()))["depths"][1]["depth"] == 64


def test_a_token_reads_the_weights_and_the_cache_before_it(result: BenchResult) -> None:
    config = Qwen3Config.load(DEMO_MODEL)
    first, second = (found.bytes_per_token for found in result.depths)
    assert first == weight_bytes_per_token(config, Recipe.for_format("int4").resolve(config))
    assert second - first == 64 * KVCacheSpec.of(config).bytes_per_token()


def test_an_untied_embedding_is_not_read() -> None:
    recipe = Recipe.for_format("int4")
    tied, untied = (InMemoryWeights.random(tie_word_embeddings=tied).config for tied in (True, False))
    assert weight_bytes_per_token(tied, recipe.resolve(tied)) == weight_bytes_per_token(untied, recipe.resolve(untied))


def test_kernels_keep_two_floats_beside_each_group() -> None:
    assert resident_bytes((8, 64), Scheme(4, 32)) == 8 * 64 // 2 + 8 * 2 * 8
    assert resident_bytes((8, 64), None) == 4 * 8 * 64


def test_default_depths_beyond_the_context_are_named(artifact: Path) -> None:
    class Heard(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    notes = list[str]()
    with report_to(Heard()):
        result = bench_artifact(artifact, prompt=8, new=2, threads=1, repeats=1, kernels="onnxruntime")
        bench_artifact(artifact, prompt=8, new=2, depths=(0,), threads=1, repeats=1, kernels="onnxruntime")
    assert [found.depth for found in result.depths] == [0, 512]
    assert result.to_json()["left_out"] == (4096,)
    assert notes == ["depth 4096 left out: with 2 new tokens beyond the model's context of 1024"]
    assert "of 1 process, 2 tokens each" in bench_table(result)


def test_more_than_the_context_is_refused(artifact: Path) -> None:
    with pytest.raises(UsageError, match="the model's context is"):
        bench_artifact(artifact, depths=(100_000,))


def test_a_process_that_fails_says_why(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q3edge.pipeline.measure.bench.sys.executable", "false")
    with pytest.raises(InputError, match=r"the measured process failed \(exit code 1\)"):
        bench_artifact(artifact, prompt=1, new=1, depths=(0,), repeats=1)


@pytest.mark.parametrize(
    ("depths", "word"), [("0,x", "expected values such as 0,512,4096"), ("-1,0", "expected at least 0")]
)
def test_depths_are_numbers(artifact: Path, depths: str, word: str) -> None:
    command = [sys.executable, "-m", "q3edge", "bench", str(artifact), "--depth", depths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert word in done.stderr


def test_the_command_prints_a_table(artifact: Path) -> None:
    flags = ["--prompt", "32", "--new", "4", "--depth", "0,32", "--repeats", "1", "--threads", "1"]
    command = [sys.executable, "-m", "q3edge", "bench", str(artifact), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "after 32 tokens" in done.stdout
    assert "prefill of 32 tokens" in done.stdout


def test_l13_the_default_prompt_is_shortened_to_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_checkpoint(tmp_path / "model", max_position_embeddings=100)
    export_artifact(str(model), tmp_path / "out", as_float=True)
    started: list[dict[str, object]] = []

    class StartedError(Exception):
        pass

    def start(arguments: dict[str, object]) -> None:
        started.append(arguments)
        raise StartedError

    monkeypatch.setattr(bench, "_run", start)
    with pytest.raises(StartedError):
        bench_artifact(tmp_path / "out", new=8)
    assert started[0]["prompt"] == 92
    with pytest.raises(UsageError, match="the model's context is 100; ask for less"):
        bench_artifact(tmp_path / "out", prompt=93, new=8)


def processes_of_bench(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """List that grows by what each measured process says."""
    processes: list[dict[str, Any]] = []

    def run(arguments: dict[str, Any]) -> dict[str, Any]:
        processes.append(measured(arguments))
        return processes[-1]

    measured = bench._run
    monkeypatch.setattr(bench, "_run", run)
    return processes


@pytest.mark.skipif(library() is None, reason="the kernels were not built here")
def test_a_process_that_packs_weights_is_not_counted(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    notes, processes = Notes(), processes_of_bench(monkeypatch)
    with report_to(notes):
        found = bench_artifact(artifact, prompt=4, new=2, depths=(0,), threads=1, repeats=1, kernels="q3edge:portable")
    assert [line.startswith(PACKING) for line in notes.lines] == [True]
    assert [len(process["notes"]) for process in processes] == [1, 0]
    assert found.load.median == processes[1]["load"]
    assert found.kernels.startswith("q3edge (portable, ")


def test_experts_on_the_disk_are_measured_once_they_are_packed(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    checkpoint = write_checkpoint(tmp_path / "float", **MOE)
    quantize_checkpoint(str(checkpoint), tmp_path / "q", Recipe.for_format("int4"))
    export_artifact(str(tmp_path / "q"), tmp_path / "x")
    notes, processes = Notes(), processes_of_bench(monkeypatch)
    settings: dict[str, Any] = {"prompt": 4, "new": 2, "depths": (0,), "threads": 1, "repeats": 1}
    with report_to(notes):
        found = bench_artifact(tmp_path / "x", offload=True, kernels="onnxruntime", **settings)
    assert [len(process["notes"]) for process in processes] == [1, 0]
    assert found.load.median == processes[1]["load"]
    assert [line.startswith("packing the experts of") for line in notes.lines] == [True]
    assert len([*(tmp_path / "kept" / "experts").iterdir()]) == 1
    with pytest.raises(UsageError, match="has no quantized experts in onnxruntime's operator"):
        bench_artifact(artifact, offload=True, **settings)
