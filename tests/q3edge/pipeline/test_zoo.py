"""`q3edge zoo`: shipped figures are those of `inspect`, limits decide what fits, and the page says it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from q3edge.checkpoint.known_models import known_models
from q3edge.cli.layout import WIDTH, fitted
from q3edge.cli.tables.zoo import zoo_page, zoo_table
from q3edge.errors import UsageError
from q3edge.formats import FLOAT, FORMATS
from q3edge.pipeline import zoo
from q3edge.pipeline.zoo import Zoo, ZooModel, visit_zoo
from tests.helpers.models import tiny_config, write_checkpoint
from tools.zoo_figures import COMMAND, PAGE, figures_of

GB = 10**9


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which everything is known: 2 threads, 20 GB/s a core, 100 GFLOP/s, 16 GB of memory free."""
    monkeypatch.setattr(zoo, "default_threads", lambda: 2)
    monkeypatch.setattr("q3edge.pipeline.predictions.default_threads", lambda: 2)
    monkeypatch.setattr(zoo, "read_bandwidth", lambda: 20e9)
    monkeypatch.setattr(zoo, "matrix_speed", lambda: 100e9)
    monkeypatch.setattr(zoo, "available_memory", lambda: 16 * GB)
    monkeypatch.setattr(zoo, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(zoo, "slow_block_products", lambda: None)


def of(found: Zoo, name: str) -> ZooModel:
    return next(model for model in found.models if model.known.name == name)


@pytest.mark.parametrize("shape", ["0.6B", "Embedding-0.6B", pytest.param("30B-A3B", marks=pytest.mark.slow)])
def test_shipped_figures_are_those_that_inspect_makes(shape: str) -> None:
    shipped = json.loads(PAGE.read_text(encoding="utf-8"))
    known = next(model for model in known_models() if model.shape == shape)
    assert shipped[shape] == figures_of(known.config), f"out of date; run: {COMMAND}"


def test_figures_of_every_shape_and_format_are_shipped() -> None:
    shipped = json.loads(PAGE.read_text(encoding="utf-8"))
    assert shipped.keys() == {model.shape for model in known_models()}
    for formats in shipped.values():
        assert formats.keys() == {FLOAT, *FORMATS}


def test_a_prediction_is_that_of_inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from q3edge.architecture.config import Qwen3Config
    from q3edge.pipeline import inspect

    monkeypatch.setattr(inspect, "read_bandwidth", lambda: 20e9)
    found = inspect.inspect_model(str(write_checkpoint(tmp_path / "m")))
    figures = figures_of(Qwen3Config.from_dict(tiny_config()))
    monkeypatch.setattr(zoo, "_figures", lambda: {"0.6B": figures})
    small = found.config
    known = known_models()[0]
    monkeypatch.setattr(zoo, "_named", lambda _: type(known)(
        known.name, known.hub_id, known.kind, known.shape, small, known.thinks, known.license, {}, False
    ))  # fmt: skip
    (model,) = visit_zoo("0.6b").models
    assert tuple(each.prediction for each in model.formats.values()) == found.predictions


def test_limits_decide_what_fits_and_which_is_begun_with() -> None:
    free = visit_zoo(ram_bytes=64 * GB, disk_bytes=64 * GB, min_tokens_per_second=0)
    assert of(free, "qwen3-14b").fitting == "int4-mixed"
    assert of(free, "qwen3-235b-a22b").fitting is None
    assert of(free, "qwen3-235b-a22b").formats["int4-fast"].lacks == ("memory", "disk")
    small = visit_zoo(ram_bytes=2 * GB, disk_bytes=GB, min_tokens_per_second=10)
    assert of(small, "qwen3-1.7b").fitting == "int4-fast"  # 1.7 GB of memory, where int4-mixed takes 2.2
    assert of(small, "qwen3-4b").fitting is None
    assert small.verdict.startswith(
        "begin with qwen3-1.7b: the largest that fits and is made here, as int4-fast: 0.9 GB"
    )
    narrow = visit_zoo(ram_bytes=64 * GB, disk_bytes=GB, min_tokens_per_second=0)
    assert of(narrow, "qwen3-1.7b").formats["int4-mixed"].lacks == ("disk",)
    fast = visit_zoo("8b", ram_bytes=64 * GB, disk_bytes=64 * GB, min_tokens_per_second=5)
    assert fast.models[0].formats["int4"].lacks == ("speed",)
    none = visit_zoo(ram_bytes=GB // 2)
    assert none.verdict == "no model fits: even qwen3-0.6b lacks memory (1.0 GB) as int4-fast, the smallest format"


def test_speed_is_no_limit_of_a_model_that_writes_nothing() -> None:
    found = of(visit_zoo(ram_bytes=64 * GB, disk_bytes=64 * GB, min_tokens_per_second=1000), "qwen3-embedding-0.6b")
    assert found.formats["int4-mixed"].prediction.tokens_per_second is None
    assert found.fitting == "int4-mixed"


def test_what_fits_but_has_no_room_to_be_made_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 40 * GB})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    found = visit_zoo(ram_bytes=32 * GB, disk_bytes=40 * GB)
    mixture = of(found, "qwen3-30b-a3b")
    assert mixture.fitting
    making = mixture.shown.making
    assert making is not None
    assert not making.here
    assert making.disk_bytes > mixture.known.download_bytes > 60 * GB
    begin, _, larger = found.verdict.partition(". ")
    assert begin.startswith("begin with qwen3-4b (qwen3-4b-instruct-2507, qwen3-4b-thinking-2507 alike): ")
    assert larger.startswith("qwen3-30b-a3b (")
    assert "to be made elsewhere" in larger


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"qwen3-9b: no model of the Qwen3 family by this name; did you mean qwen3-8b, "
    ):
        visit_zoo("qwen3-9b")
    with pytest.raises(UsageError, match=r"llama: .*; `q3edge zoo` lists all"):
        visit_zoo("llama")


@pytest.mark.parametrize("name", [None, "0.6b", "235b-a22b", "embedding-4b", "reranker-8b", "8b-awq"])
def test_the_page_fits_the_terminal(name: str | None) -> None:
    found = visit_zoo(name)
    text = fitted(zoo_table(found) if name is None else zoo_page(found))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert f"{found.verdict[1:20]}" in text.replace("\n  ", " ")


def q3edge(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "q3edge", "zoo", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=120
    )


def test_the_command_in_a_process_of_its_own_without_torch_onnx_and_network(tmp_path: Path) -> None:
    """Modules that raise stand for packages that a device lacks, and for the network."""
    for module in ("torch", "onnx", "onnx_ir", "huggingface_hub"):
        (tmp_path / f"{module}.py").write_text(f"raise ImportError('{module}')\n")
    path = f"{tmp_path}:{':'.join(sys.path)}"
    result = q3edge("4b-instruct-2507", "--json", "--ram", "8GB", "--disk", "3GB", PYTHONPATH=path)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    (model,) = found["models"]
    assert model["hub_id"] == "Qwen/Qwen3-4B-Instruct-2507"
    assert (model["license"], model["thinks"], model["context"]) == ("apache-2.0", "never", 262144)
    assert found["limits"] == {"ram_bytes": 8 * GB, "disk_bytes": 3 * GB, "min_tokens_per_second": 5.0}
    by_format = {entry["format"]: entry for entry in model["formats"]}
    shipped = json.loads(PAGE.read_text(encoding="utf-8"))["4B"]
    assert {name: entry["disk_bytes"] for name, entry in by_format.items()} == {
        name: figures["footprint"]["disk_bytes"] for name, figures in shipped.items()
    }
    assert by_format["int8"]["lacks"][:1] == ["disk"]
    refused = q3edge("9b", PYTHONPATH=path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "did you mean qwen3-8b" in refused.stderr
