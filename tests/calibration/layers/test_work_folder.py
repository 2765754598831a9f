"""A work folder: what was saved is loaded or found damaged, and other inputs and processes are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.calibration.layers.input_group import TensorReport
from q3edge.calibration.layers.rounded import LayerResult
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.errors import ResourceError, UsageError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from tests.helpers.calibration import flipped, result_bytes


def test_a_summary_says_what_the_layer_holds(tmp_path: Path) -> None:
    result, _ = small_result()
    with WorkFolder(tmp_path, {}) as journal:
        assert journal.finished(0) is None
        journal.save(0, result)
        found = journal.finished(0)
        assert found is not None
        assert (found.reports, found.reconstruction, found.floats) == (result.reports, None, ("n.weight",))
        path = tmp_path / "layer-0000.bin"
        path.write_bytes(flipped(path.read_bytes(), 50))
        assert journal.finished(0) is None
        assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256": 1}', b'{"sha256": "", "value": {"a": 1.0}}'])
def test_damaged_values_are_not_recalled(content: bytes, tmp_path: Path) -> None:
    with WorkFolder(tmp_path, {}) as journal:
        assert journal.recall("costs") is None
        journal.store("costs", {"a": [0.1, 1 / 3]})
        assert journal.recall("costs") == {"a": [0.1, 1 / 3]}
        path = tmp_path / "costs.json"
        for damaged in (content, path.read_bytes().replace(b"0.1", b"0.2"), path.read_bytes()[:-9]):
            path.write_bytes(damaged)
            assert journal.recall("costs") is None


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, {}) as journal:
        journal.store("costs", 1)
    for name in (".hidden-0001.bin.partial-1", ".layer-0000.bin.partial-2"):
        (tmp_path / name).write_bytes(b"half")
    with WorkFolder(tmp_path, {}) as journal:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["costs.json", "inputs.json", "lock"]
        assert journal.recall("costs") == 1


def small_result() -> tuple[LayerResult, dict[str, Scheme | None]]:
    rng = np.random.default_rng(0)
    schemes: dict[str, Scheme | None] = {"a.weight": Scheme(4, 16, False), "b.weight": Scheme(8, 16), "n.weight": None}
    tensors = {
        name: QuantizedTensor(
            rng.integers(0, 16, (2, 16)).astype(np.uint8),
            rng.standard_normal((2, 1)).astype(np.float16),
            None if scheme.symmetric else rng.integers(0, 16, (2, 1)).astype(np.uint8),
            scheme,
        )
        for name, scheme in schemes.items()
        if scheme is not None
    }
    zeros: dict[str, Any] = dict.fromkeys(TensorReport.__dataclass_fields__, 0)
    report = TensorReport(**{**zeros, "scheme": Scheme(4, 16, False)})
    floats = {"n.weight": rng.standard_normal(16).astype(np.float32)}
    return LayerResult(tensors, floats, {"a.weight": report}), schemes


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    result, schemes = small_result()
    with WorkFolder(tmp_path, {}) as journal:
        assert journal.load(0, schemes) is None
        journal.save(0, result)
        journal.save(11, result)
        (tmp_path / "layer-0001 copy.bin").touch()
        found = journal.load(0, schemes)
        assert found is not None
        assert result_bytes([found]) == result_bytes([result])
        assert journal.finished_layers() == [0, 11]


def surviving_damage(tmp_path: Path, damaged: Callable[[bytes], Iterator[bytes]]) -> Iterator[str]:
    """Damage that is not found, or ends in anything but "solve it again"."""
    result, schemes = small_result()
    with WorkFolder(tmp_path, {}) as journal:
        journal.save(0, result)
        path = tmp_path / "layer-0000.bin"
        for number, content in enumerate(damaged(path.read_bytes())):
            path.write_bytes(content)
            try:
                found = journal.load(0, schemes)
            except Exception as error:
                yield f"{number}: {type(error).__name__}: {error}"
                continue
            if found is not None and result_bytes([found]) != result_bytes([result]):
                yield f"{number}: another result"
            elif found is None and path.exists():
                yield f"{number}: still there"


def test_any_byte_flipped_in_a_layer_file_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def each_flipped(content: bytes) -> Iterator[bytes]:
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= int(rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 255)))
            yield bytes(changed)

    assert list(surviving_damage(tmp_path, each_flipped)) == []


def test_a_layer_file_cut_anywhere_is_found(tmp_path: Path) -> None:
    def cut(content: bytes) -> Iterator[bytes]:
        return (content[:length] for length in range(0, len(content), 7))

    assert list(surviving_damage(tmp_path, cut)) == []


def test_other_inputs_are_refused_by_name_and_change_nothing(tmp_path: Path) -> None:
    result, schemes = small_result()
    inputs = {"model": "m", "recipe": "r", "calibration tokens": "t"}
    with WorkFolder(tmp_path, inputs) as journal:
        journal.save(0, result)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for changed in (["model"], ["recipe"], ["calibration tokens", "model"]):
        with (
            pytest.raises(UsageError, match="--restart") as refusal,
            WorkFolder(tmp_path, {**inputs, **dict.fromkeys(changed, "other")}),
        ):
            pass
        assert f"{', '.join(changed)} changed" in str(refusal.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with WorkFolder(tmp_path, inputs) as journal:  # the lock was given back
        assert journal.load(0, schemes) is not None
    with WorkFolder(tmp_path, {**inputs, "model": "other"}, restart=True) as journal:
        assert journal.load(0, schemes) is None
        assert journal.finished_layers() == []


def test_layers_without_a_record_of_their_inputs_are_not_trusted(tmp_path: Path) -> None:
    result, schemes = small_result()
    with WorkFolder(tmp_path, {"model": "m"}) as journal:
        journal.save(0, result)
    (tmp_path / "inputs.json").unlink()
    with WorkFolder(tmp_path, {"model": "m"}) as journal:
        assert journal.load(0, schemes) is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"model": 3}'])
def test_a_damaged_record_of_the_inputs_is_refused_and_restart_helps(content: bytes, tmp_path: Path) -> None:
    with WorkFolder(tmp_path, {"model": "m"}):
        pass
    (tmp_path / "inputs.json").write_bytes(content)
    with pytest.raises(UsageError, match="--restart"), WorkFolder(tmp_path, {"model": "m"}):
        pass
    with WorkFolder(tmp_path, {"model": "m"}, restart=True):
        pass
    with WorkFolder(tmp_path, {"model": "m"}):
        pass


def test_a_second_process_is_told_which_one_is_at_work(tmp_path: Path) -> None:
    result, schemes = small_result()
    with WorkFolder(tmp_path, {}) as journal:
        journal.save(0, result)
        for restart in (False, True):
            message = f"process {os.getpid()} is working on this output"
            with pytest.raises(ResourceError, match=message), WorkFolder(tmp_path, {}, restart=restart):
                pass
        assert journal.load(0, schemes) is not None
    with WorkFolder(tmp_path, {}) as journal:
        assert journal.load(0, schemes) is not None


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match="choose another disk"), WorkFolder(tmp_path / "file" / "work", {}):
        pass
