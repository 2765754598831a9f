"""Calibrations killed anywhere, or on a damaged work folder: the next run gives the same bits, or a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from q3edge.architecture.tensors import EMBEDDING
from q3edge.calibration.layers import input_group
from q3edge.calibration.layers import work_folder as journal_module
from q3edge.calibration.layers.layerwise import LayerwiseCalibration
from q3edge.calibration.layers.streams import StateStream
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.errors import ResourceError
from q3edge.quantization.scheme import Scheme
from q3edge.storage.array_file import read_arrays
from tests.helpers.calibration import (
    Killed,
    calibrate,
    flipped,
    linear_schemes,
    outlier_model,
    random_tokens,
    result_bytes,
    solver_calls,
)
from tests.helpers.models import InMemoryWeights

INT4 = Scheme(4, 16, False)
TOKENS = random_tokens(5, 16, vocab=64)
LAYERS = 3


@pytest.fixture(autouse=True)
def _one_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_group, "EXPONENTS", (0.5,))  # the choice among several takes most of the time


def small_model(layers: int = LAYERS) -> InMemoryWeights:
    return outlier_model(
        num_hidden_layers=layers,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        head_dim=16,
        num_attention_heads=2,
    )


def schemes_of(model: InMemoryWeights) -> dict[str, Scheme | None]:
    return {**linear_schemes(model, INT4, keep_float=("k_proj", "v_proj", "gate_proj")), EMBEDDING: INT4}


@pytest.fixture(scope="module")
def model() -> InMemoryWeights:
    return small_model()


def run(model: InMemoryWeights, folder: Path, *, reconstruct: bool = False) -> dict[str, Any]:
    """Results and hidden states of a run, comparable bit for bit."""
    results, states = calibrate(model, schemes_of(model), TOKENS, folder, reconstruct=reconstruct)
    return {**result_bytes(results), "states": states.numpy().tobytes()}


@pytest.fixture(scope="module")
def expected(model: InMemoryWeights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_group, "EXPONENTS", (0.5,))
        return run(model, tmp_path_factory.mktemp("whole") / "work")


@contextmanager
def killed_at(number: int) -> Iterator[None]:
    """Kill right before the `number`-th operation on the disk, which is right after the one before it."""
    happened = 0

    def or_killed(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            nonlocal happened
            happened += 1
            if happened >= number:  # other threads do not outlive the process
                raise Killed
            return original(*arguments)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (StateStream, "write"),
            (StateStream, "commit"),
            (StateStream, "delete"),
            (WorkFolder, "save"),
            (os, "fsync"),
            (Path, "rename"),
            (Path, "replace"),
        ):
            patch.setattr(owner, name, or_killed(getattr(owner, name)))
        yield


def attempt(model: InMemoryWeights, folder: Path, number: int, *, reconstruct: bool = False) -> dict[str, Any] | None:
    """Run with a kill at operation `number`; None if it was killed."""
    with killed_at(number):
        try:
            return run(model, folder, reconstruct=reconstruct)
        except Killed:
            return None


@pytest.mark.slow
@pytest.mark.parametrize("reconstruct", [False, True], ids=["solved", "reconstructed"])
def test_killed_anywhere_the_next_run_gives_the_same_bits(
    reconstruct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of runs need not wait for the disk
    model = small_model(layers=2)
    expected = run(model, tmp_path / "whole", reconstruct=reconstruct)
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        if attempt(model, folder, number, reconstruct=reconstruct) is not None:
            break
        assert run(model, folder, reconstruct=reconstruct) == expected, f"killed at {number}"
    assert number > 30


@pytest.mark.parametrize("number", [7, 12, 23])
def test_killed_again_and_again_it_still_ends_with_the_same_bits(
    model: InMemoryWeights, expected: dict[str, Any], number: int, tmp_path: Path
) -> None:
    for round_number in range(100):
        # A little later every time, or a layer with more steps than that would never be done.
        found = attempt(model, tmp_path / "work", number + round_number)
        if found is not None:
            break
    assert found == expected
    assert round_number > 1


_CHILD = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
import torch; torch.set_num_threads(1)
from q3edge.calibration.layers import input_group; input_group.EXPONENTS = (0.5,)
from tests.helpers.calibration import calibrate
import test_interrupted as t
from {module} import {owner}
original = {owner}.{name}
left = {count}
def wrapped(*arguments):
    global left
    left -= 1
    if left == 0:
        os._exit(77)
    return original(*arguments)
{owner}.{name} = wrapped
model = t.small_model()
calibrate(model, t.schemes_of(model), t.TOKENS, Path({folder!r}))
"""


@pytest.mark.parametrize(
    ("module", "owner", "name", "count"),
    [
        ("q3edge.calibration.layers.work_folder", "WorkFolder", "save", 2),
        ("q3edge.calibration.layers.streams", "StateStream", "commit", 3),
    ],
)
def test_a_process_that_vanishes_is_followed_by_one_that_finishes(
    model: InMemoryWeights,
    expected: dict[str, Any],
    module: str,
    owner: str,
    name: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tests = Path(__file__).parent
    path = [str(tests), str(tests.parents[2])]
    code = _CHILD.format(path=path, module=module, owner=owner, name=name, count=count, folder=str(tmp_path / "work"))
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 77, child.stderr
    calls = solver_calls(monkeypatch)
    assert run(model, tmp_path / "work") == expected
    assert calls == [1, 2, LAYERS]


def test_a_finished_calibration_solves_nothing_again(
    model: InMemoryWeights, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, tmp_path)
    calls = solver_calls(monkeypatch)
    assert run(model, tmp_path) == expected
    assert calls == []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("layers", "damage"),
    [
        *(([layer], "flipped byte") for layer in range(LAYERS + 1)),
        ([0, 2], "truncated"),
        ([1, LAYERS], "truncated"),
        ([1], "empty"),
        ([0, 1], "missing"),
    ],
)
def test_a_damaged_layer_alone_is_solved_again(
    model: InMemoryWeights,
    expected: dict[str, Any],
    layers: list[int],
    damage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(model, tmp_path)
    for layer in layers:
        path = tmp_path / f"layer-{layer:04}.bin"
        content = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
            continue
        content[len(content) // 3] ^= 4
        path.write_bytes({"flipped byte": content, "truncated": content[:-100], "empty": bytearray()}[damage])
    calls = solver_calls(monkeypatch)
    assert run(model, tmp_path) == expected
    assert calls == layers


def test_a_layers_file_in_anothers_place_is_solved_again(
    model: InMemoryWeights, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, tmp_path)
    (tmp_path / "layer-0001.bin").write_bytes((tmp_path / "layer-0000.bin").read_bytes())
    (tmp_path / "layer-0001 copy.bin").write_bytes(b"copied by hand")
    calls = solver_calls(monkeypatch)
    assert run(model, tmp_path) == expected
    assert calls == [1]


@pytest.mark.parametrize("name", ["layer-0001.bin", "hidden-0003.bin"])
def test_a_folder_in_a_files_place_is_one_clear_line(model: InMemoryWeights, name: str, tmp_path: Path) -> None:
    run(model, tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(ResourceError, match=rf"{name}: cannot be .* \(.*\); move it away or"):
        run(model, tmp_path)
    assert (tmp_path / name).is_dir()


def test_a_damaged_layer_found_in_an_unfinished_run_is_solved_again(
    model: InMemoryWeights, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        save = WorkFolder.save

        def until_the_last(self: WorkFolder, layer: int, *rest: Any) -> None:
            if layer == LAYERS - 1:
                raise Killed
            save(self, layer, *rest)

        patch.setattr(WorkFolder, "save", until_the_last)
        with pytest.raises(Killed):
            run(model, tmp_path)
    path = tmp_path / "layer-0000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    calls = solver_calls(monkeypatch)
    assert run(model, tmp_path) == expected
    assert calls == [0, 2, LAYERS]


@pytest.mark.parametrize(("name", "reconstruct"), [("hidden", False), ("hidden", True), ("float", True)])
@pytest.mark.parametrize(
    "damaged",
    [
        lambda content: b"",
        lambda content: content[:-4],
        lambda content: content + b"\0",
        lambda content: flipped(content, 0),
        lambda content: flipped(content, len(content) // 2),
        lambda content: flipped(content, len(content) - 1),
    ],
    ids=["empty", "cut", "longer", "first byte", "middle byte", "checksum"],
)
def test_damaged_hidden_states_are_made_again(
    damaged: Callable[[bytes], bytes], name: str, reconstruct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(layers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateStream, "delete", StateStream.close)
        expected = run(model, tmp_path, reconstruct=reconstruct)  # leaves the states before each layer, as a kill does
    (tmp_path / "layer-0001.bin").unlink()
    states = tmp_path / f"{name}-0001.bin"
    states.write_bytes(damaged(states.read_bytes()))
    read: list[int] = []
    load = WorkFolder.load
    monkeypatch.setattr(WorkFolder, "load", lambda self, layer, *rest: read.append(layer) or load(self, layer, *rest))  # type: ignore[func-returns-value]
    calls = solver_calls(monkeypatch)
    assert run(model, tmp_path, reconstruct=reconstruct) == expected
    assert calls == [1]
    assert read[0] == 0  # not continued from the damaged states: the first layer was passed through again


def test_a_finished_layer_is_read_once(model: InMemoryWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untied = {**schemes_of(model), EMBEDDING: None}
    read: list[str] = []

    def noted(path: Path) -> Any:
        read.append(path.name)
        return read_arrays(path)

    monkeypatch.setattr(journal_module, "read_arrays", noted)
    for _ in range(2):
        with WorkFolder(tmp_path, {}) as journal:
            calibration = LayerwiseCalibration(model, untied, TOKENS, journal)
            calibration.run().close()
            assert [len(summary.reports) for summary in calibration.summaries()] == [4] * LAYERS
            assert read == []
            assert [len(result.tensors) for result in calibration.results()] == [4] * LAYERS
        assert read == [f"layer-{layer:04}.bin" for layer in range(LAYERS)]
        read.clear()
