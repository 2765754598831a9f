"""Commands with --scheduler: what they write is what they write without, and an address that is none is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.helpers.cluster import Cluster, cluster
from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_tokenizer

MODEL = Path(str(files("q3edge.data") / "demo_model"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(2, tmp_path_factory.mktemp("cluster")) as found:
        yield found


def q3edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "q3edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_quantize_writes_the_same_folder(running: Cluster, tmp_path: Path) -> None:
    small = ("--calibration", MODEL / "calibration.jsonl", "--samples", 16, "--seq-len", 64)
    here = q3edge("quantize", MODEL, "-o", tmp_path / "here", *small)
    assert here.returncode == 0, here.stderr
    there = q3edge("quantize", MODEL, "-o", tmp_path / "there", *small, "--scheduler", running.address)
    assert there.returncode == 0, there.stderr
    assert f"2 workers at {running.address}" in there.stderr
    for name in ("model.safetensors", "config.json", "q3edge.json"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_what_workers_do_not_do_is_told(running: Cluster, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    write_tokenizer(model)
    rounded = q3edge("quantize", model, "-o", tmp_path / "rtn", "--method", "rtn", "--scheduler", running.address)
    assert rounded.returncode == 0, rounded.stderr
    assert "note: --scheduler: there was nothing for the workers" in rounded.stderr
    small = ("--calibration", MODEL / "calibration.jsonl", "--samples", 4, "--seq-len", 32, "--reconstruct", "--tune")
    trained = q3edge("quantize", model, "-o", tmp_path / "gptq", *small, "--scheduler", running.address)
    assert trained.returncode == 0, trained.stderr
    assert "note: --reconstruct and --tune: training goes step by step, and runs here" in trained.stderr
    assert "nothing for the workers" not in trained.stderr


def test_workers_build_the_formats_of_a_sweep(running: Cluster, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    write_tokenizer(model)
    formats = ("--formats", "int8,int4-g128", "--method", "rtn")  # the second does not fit the model's width of 64
    measured = ("--areas", "math", "--limit", 2, "--no-speed", "--no-cache", "--json")
    found = q3edge("sweep", model, "-o", tmp_path / "sweep", *formats, *measured, "--scheduler", running.address)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert [variant["name"] for variant in report["variants"]] == ["int8"]
    assert "group" in json.dumps(report["failures"])
    built = q3edge("build", model, "-o", tmp_path / "int8", "--format", "int8", "--method", "rtn")
    assert built.returncode == 0, built.stderr
    for name in ("onnx/model.onnx", "onnx/model.onnx_data"):
        assert (tmp_path / "sweep" / "int8" / name).read_bytes() == (tmp_path / "int8" / name).read_bytes()


def test_an_address_that_is_none_is_one_line(tmp_path: Path) -> None:
    found = q3edge("build", MODEL, "-o", tmp_path / "out", "--scheduler", "nowhere")
    assert found.returncode == 2
    assert found.stderr == "q3edge: --scheduler nowhere: expected an address such as tcp://host:8786\n"
    assert not (tmp_path / "out").exists()


def test_without_the_extra_the_line_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "cloudpickle.py").write_text("raise ModuleNotFoundError('no', name='cloudpickle')")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import q3edge.cli.start as start; start.entry_point()"
    arguments = ["quantize", str(MODEL), "-o", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:9"]
    found = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 4
    assert "this needs the package cloudpickle: pip install" in found.stderr
    assert "[distributed]" in found.stderr
