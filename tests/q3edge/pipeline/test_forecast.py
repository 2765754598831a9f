"""What a calibration is said to take beforehand: true for the disk, sensible for the rest, and a refusal in time."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import q3edge.pipeline.quantize.forecast
import q3edge.pipeline.quantize.outlook
from q3edge.architecture.config import Qwen3Config
from q3edge.calibration.layers.streams import StateStream
from q3edge.checkpoint.compressed_tensors import QuantizedWriter
from q3edge.errors import ResourceError
from q3edge.pipeline.quantize.calibrate import Budget, CalibrationOptions
from q3edge.pipeline.quantize.forecast import (
    Forecast,
    Machine,
    Workload,
    disk_bytes,
    forecast,
    work_folder_bytes,
)
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.progress import Silent, report_to
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import (
    calibrate,
    killed_after_the_first_layer,
    linear_schemes,
    outlier_model,
    random_tokens,
    solver_calls,
)
from tests.helpers.models import tiny_config, write_checkpoint
from tests.helpers.runtime import write_tokenizer

MACHINE = Machine(1e11, 2, False)
GB = 10**9


class Heard(Silent):
    """A listener that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Small:
    """`quantize_checkpoint` of a small model on `shape` random tokens, below a folder that holds nothing else."""

    def __init__(self, folder: Path, shape: tuple[int, int] = (6, 16), **overrides: Any) -> None:
        self.folder, self.shape, self.recipe = folder, shape, Recipe.for_format("int4")
        self.model = write_checkpoint(folder / "model", **overrides)
        write_tokenizer(self.model)
        np.save(folder / "tokens.npy", random_tokens(*shape, vocab=300))

    def load(self, **flags: bool) -> Workload:
        config = Qwen3Config.load(self.model)
        return Workload(config, self.recipe.resolve(config), *self.shape, **flags)

    def quantize(self, *, reconstruct: bool = False, tune: bool = False) -> list[str]:
        heard = Heard()
        calibration = CalibrationOptions((self.folder / "tokens.npy",), reconstruct=reconstruct, tune=tune)
        with report_to(heard):
            quantize_checkpoint(str(self.model), self.folder / "out", self.recipe, calibration)
        return heard.lines

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name not in ("model", "tokens.npy"))


def workload(
    sequences: int = 8, length: int = 64, *, reconstructed: bool = False, tuned: bool = False, **overrides: Any
) -> Workload:
    config = Qwen3Config.from_dict(tiny_config(**overrides))
    schemes = Recipe.for_format("int4").resolve(config)
    return Workload(config, schemes, sequences, length, reconstructed=reconstructed, tuned=tuned)


def bytes_below(*folders: Path) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def before_call(patch: pytest.MonkeyPatch, owner: type, name: str, look: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def looking(self: Any, *arguments: Any) -> Any:
        look()
        return original(self, *arguments)

    patch.setattr(owner, name, looking)


def free_disk(patch: pytest.MonkeyPatch, free: int) -> None:
    patch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(total=free, used=0, free=free))


@pytest.mark.parametrize("scheme", [Scheme(4, 32, False), Scheme(8, 16)], ids=Scheme.label)
@pytest.mark.parametrize(
    "shape", [{}, {"num_attention_heads": 16}, {"intermediate_size": 512, "num_hidden_layers": 3}], ids=str
)
@pytest.mark.parametrize("tokens", [(40, 64), (6, 16)], ids=str)
@pytest.mark.parametrize("reconstruct", [False, True], ids=["solved", "reconstructed"])
def test_the_work_folder_peaks_where_it_was_said(
    reconstruct: bool,
    tokens: tuple[int, int],
    shape: dict[str, int],
    scheme: Scheme,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, seen = outlier_model(0, **shape), [0]
    schemes = linear_schemes(source, scheme)
    before_call(monkeypatch, StateStream, "delete", lambda: seen.append(bytes_below(tmp_path)))
    calibrate(source, schemes, random_tokens(*tokens), tmp_path, reconstruct=reconstruct)
    headers = 11 * 1024 * source.config.num_hidden_layers  # of the tensors in the layers' files: an estimate
    load = Workload(source.config, schemes, *tokens, reconstructed=reconstruct)
    assert 0 <= work_folder_bytes(load) - max(seen) < headers


TRAINING = {"plain": {}, "reconstructed": {"reconstructed": True}, "tuned": {"tuned": True}}
trained = pytest.mark.parametrize("flags", TRAINING.values(), ids=TRAINING.keys())


@trained
@pytest.mark.parametrize("shape", [(2, 16), (40, 64)], ids=str)
def test_work_and_output_together_peak_where_it_was_said(
    shape: tuple[int, int], flags: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(q3edge.pipeline.quantize.forecast, "_SIDE_BYTES", 0)
    small = Small(tmp_path, shape, vocab_size=8192)
    seen: list[int] = []

    def look() -> None:
        seen.append(bytes_below(*(path for path in tmp_path.iterdir() if path.name.startswith(".out."))))

    before_call(monkeypatch, StateStream, "delete", look)
    before_call(monkeypatch, QuantizedWriter, "close", look)
    small.quantize(reconstruct="reconstructed" in flags, tune="tuned" in flags)
    # Headers are an estimate, and float tensors that stay as they were are counted as if they became float32.
    assert disk_bytes(small.load(**flags)) == pytest.approx(max(seen), rel=0.03)


@trained
@pytest.mark.parametrize(
    "larger",
    [
        {"sequences": 16},
        {"length": 2048},
        {"num_hidden_layers": 5},
        {"hidden_size": 1024},
        {"intermediate_size": 1024},
        {"vocab_size": 100_000},
    ],
    ids=str,
)
def test_more_work_is_never_said_to_take_less(larger: dict[str, Any], flags: dict[str, bool]) -> None:
    small, large = forecast(workload(**flags), MACHINE), forecast(workload(**flags, **larger), MACHINE)
    assert small.seconds < large.seconds
    assert small.ram_bytes <= large.ram_bytes
    assert small.disk_bytes < large.disk_bytes


def test_u7_a_first_look_is_named_where_the_calibration_is_long(tmp_path: Path) -> None:
    said = "for a first look, --method rtn in place of calibration options rounds in about "
    config = Qwen3Config.from_dict(tiny_config(vocab_size=151936, hidden_size=1024, num_hidden_layers=280))
    long = Workload(config, Recipe.for_format("int4").resolve(config), 1024, 2048)
    assert q3edge.pipeline.quantize.outlook.outlook(long, tmp_path / "w", bfloat16=False)[1].startswith(said)
    short = q3edge.pipeline.quantize.outlook.outlook(workload(), tmp_path / "w", bfloat16=False)
    assert not any(line.startswith(said) for line in short)


def test_time_follows_the_machine_and_what_is_left() -> None:
    load = workload(num_hidden_layers=8)
    whole, resumed = forecast(load, MACHINE), forecast(load, MACHINE, finished=5)
    assert resumed.seconds < whole.seconds
    assert (resumed.ram_bytes, resumed.disk_bytes) == (whole.ram_bytes, whole.disk_bytes)
    assert forecast(load, dataclasses.replace(MACHINE, speed=1e10)).seconds > whole.seconds
    assert forecast(load, dataclasses.replace(MACHINE, bfloat16=True)).seconds < whole.seconds
    assert forecast(dataclasses.replace(load, tuned=True), MACHINE).seconds > whole.seconds
    assert forecast(dataclasses.replace(load, reconstructed=True), MACHINE).seconds > whole.seconds


@pytest.mark.parametrize("sequences", [8, 1024])
def test_an_int8_cache_costs_a_forward_pass_of_some_of_the_tokens(sequences: int) -> None:
    load = workload(sequences, hidden_size=1024)
    with_cache = dataclasses.replace(load, int8_cache=True)
    more = forecast(with_cache, MACHINE).seconds - forecast(load, MACHINE).seconds
    walked = [forecast(dataclasses.replace(load, sequences=n), MACHINE).seconds for n in (sequences, 2 * sequences)]
    assert 0 < more < walked[1] - walked[0]
    assert forecast(with_cache, MACHINE).ram_bytes == forecast(load, MACHINE).ram_bytes


@pytest.mark.parametrize("budget", [None, Budget(bits_per_weight=6)], ids=["recipe", "budget"])
def test_what_is_said_beforehand_counts_an_int8_cache(
    budget: Budget | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Workload] = []

    def recorded(load: Workload, machine: Machine, *, finished: int = 0) -> Forecast:
        seen.append(load)
        return forecast(load, machine, finished=finished)

    monkeypatch.setattr(q3edge.pipeline.quantize.outlook, "forecast", recorded)
    small = Small(tmp_path)
    calibration = CalibrationOptions((small.folder / "tokens.npy",), budget=budget)
    recipe = dataclasses.replace(small.recipe, kv_cache="int8")
    quantize_checkpoint(str(small.model), small.folder / "out", recipe, calibration)
    assert [load.int8_cache for load in seen] == [True]


def test_an_export_that_follows_needs_room_for_a_second_model() -> None:
    load = workload(2, 16, vocab_size=50_000)
    more = disk_bytes(dataclasses.replace(load, exported=True)) - disk_bytes(load)
    assert more > 50_000 * load.config.hidden_size


def test_bad_input_19_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, calls = Small(tmp_path), solver_calls(monkeypatch)
    needed = disk_bytes(small.load())
    free_disk(monkeypatch, needed - 1)
    with pytest.raises(ResourceError, match=r"calibration needs \d+ MB of disk there, \d+ MB are free; ") as refused:
        small.quantize()
    assert str(refused.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(refused.value)
    assert calls == []
    assert small.beside() == []
    free_disk(monkeypatch, needed)
    small.quantize()
    assert small.beside() == ["out"]


def test_what_an_unfinished_run_left_is_not_needed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(tmp_path)
    with killed_after_the_first_layer():
        small.quantize()
    free_disk(monkeypatch, disk_bytes(small.load()) - bytes_below(tmp_path / ".out.work"))
    (line,) = small.quantize()
    assert "on 6 rows of 16 tokens, 1 of 2 layers done before: about " in line


def test_bad_input_27_too_little_memory_is_said_and_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(tmp_path)
    found = []
    for available in (1000 * GB, None, GB // 10):
        monkeypatch.setattr(q3edge.pipeline.quantize.outlook, "available_memory", lambda value=available: value)
        lines = small.quantize()
        assert lines[0].startswith("calibration on 6 rows of 16 tokens: about ")
        assert lines[0].endswith(" of disk")
        warnings = [line for line in lines[1:] if " are available: this may be very slow" in line]
        assert len(lines) - 1 == len(warnings) == (available == GB // 10)
        found.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
        shutil.rmtree(tmp_path / "out")
    assert found[0] == found[1] == found[2]
