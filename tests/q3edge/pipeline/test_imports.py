"""The plain installation has no torch: `bench` and `check` on known numbers run without it, in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from q3edge.pipeline.build import build_artifact
from q3edge.quantization.recipe import Recipe

# Read by every Python that starts with its folder on the path, the measured processes of `bench` included.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnx_ir", "transformers"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "int8"
    recipe = replace(Recipe.for_format("int8"), method="rtn")
    build_artifact(str(files("q3edge.data") / "demo_model"), folder, recipe, max_tokens=32)
    return folder


def without_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(BLOCKER)
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_torch_is_blocked_indeed(tmp_path: Path) -> None:
    assert "torch is blocked" in without_torch(tmp_path, "-c", "import torch").stderr


@pytest.mark.parametrize(
    "module",
    ["report.content", "report.files", "pipeline.measure.bench", "pipeline.measure.gate"],
)
def test_it_is_imported_without_torch(tmp_path: Path, module: str) -> None:
    done = without_torch(tmp_path, "-c", f"import q3edge.{module}")
    assert (done.returncode, done.stderr) == (0, "")


def test_bench_runs_without_torch(tmp_path: Path, artifact: Path) -> None:
    flags = ("--prompt", "16", "--new", "2", "--depth", "0", "--repeats", "1", "--threads", "1", "--json")
    done = without_torch(tmp_path, "-m", "q3edge", "bench", str(artifact), *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["depths"][0]["tokens_per_second"]["median"] > 0


@pytest.mark.parametrize(("limit", "code"), [("5", 0), ("1e-12", 5)])
def test_check_on_the_builds_text_runs_without_torch(tmp_path: Path, artifact: Path, limit: str, code: int) -> None:
    done = without_torch(tmp_path, "-m", "q3edge", "check", str(artifact), "--max-kl", limit, "--json")
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert (found["kl"], found["suite_kl"], found["results"][0]["name"]) == ("text_kl", None, "max_text_kl")
