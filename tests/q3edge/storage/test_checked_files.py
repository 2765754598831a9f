"""Arrays, JSON values and journals come back bit for bit, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.errors import ResourceError
from q3edge.storage.array_file import DamagedFileError, open_arrays, read_arrays, read_note, write_arrays
from q3edge.storage.json_lines import JsonLines
from q3edge.storage.raw_bytes import bytes_of, read_at, write_at
from q3edge.storage.sealed_json import read_sealed, sealed, unsealed, write_sealed

RANDOM = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "codes": RANDOM.integers(0, 16, (3, 8)).astype(np.uint8),
    "scales": RANDOM.standard_normal((3, 1)).astype(np.float16),
    "none": np.zeros((0, 4), np.float32),
    "one": np.array(1 / 3),
    "across": RANDOM.standard_normal((4, 3)).T,
}


def test_arrays_and_note_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_arrays(path, ARRAYS, {"loss": 0.1 + 0.2})
    arrays, note = read_arrays(path)
    assert note == read_note(path) == {"loss": 0.1 + 0.2}
    assert list(arrays) == list(ARRAYS)
    for name, values in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (values.dtype, values.shape)
        assert arrays[name].tobytes() == values.tobytes()


def test_any_flipped_bit_and_any_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_arrays(path, ARRAYS, 3)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))] + [whole + b"\0"]
    damaged += [whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :] for i in range(len(whole))]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DamagedFileError):
            read_arrays(path)


def test_the_note_is_read_without_the_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_arrays(path, {"a": np.zeros(1000)}, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\1")
    assert read_note(path) == 3
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedFileError, match="bytes, expected"):
        read_note(path)
    with pytest.raises(FileNotFoundError):
        read_note(tmp_path / "b.bin")


def test_an_array_is_read_into_memory_of_any_layout(tmp_path: Path) -> None:
    """Rows of a larger array: what lies between them stays."""
    path, values = tmp_path / "a.bin", RANDOM.integers(-9, 9, (3, 5, 4)).astype(np.int8)
    write_arrays(path, {"first": np.arange(3), "a": values})
    with open_arrays(path) as file:
        file.verify(workers=2)
        whole = np.full((3, 7, 4), 99, np.int8)
        file.read_into("a", whole[:, :5])
        assert (whole[:, 5:] == 99).all()
        np.testing.assert_array_equal(whole[:, :5], values)
        across = np.empty((4, 5, 3), np.int8).T
        file.read_into("a", across)
        np.testing.assert_array_equal(across, values)
        for wrong in (np.empty((3, 5, 4), np.uint8), np.empty((3, 5), np.int8)):
            with pytest.raises(ValueError, match="a is"):
                file.read_into("a", wrong)


@pytest.mark.parametrize(
    "entry",
    [
        ["a", "|O", [3], ""], ["a", "<f8", [-1], ""], ["a", "<f8", [1.5], ""], ["a", "<f8", [True], ""],
        ["a", "<f8", [2**70], ""], ["a", "<f8", [1] * 33, ""], ["a", "i4,f4", [3], ""], ["a", 8, [3], ""],
        ["a", "<f8", 3, ""], [["a"], "<f8", [3], ""], ["a", "<f8", [3]], ["b", "<f8", [3], ""], 3,
    ],
)  # fmt: skip
def test_a_header_that_nobody_wrote_is_damage_though_its_checksum_is_right(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "a.bin"
    header = json.dumps({"arrays": [["b", "<f8", [0], ""], entry], "note": None}).encode()
    for content in (header, b"[" * 100_000, b"{}", b'{"arrays": [], "note": ' + b"1" * 5000 + b"}"):
        start = b"q3arrays" + hashlib.sha256(content).digest() + len(content).to_bytes(8, "little")
        path.write_bytes(start + content + b"x" * 24)
        with pytest.raises(DamagedFileError, match="not one that q3edge writes"):
            read_arrays(path)


@pytest.mark.parametrize("value", [None, [], {"a": [1, 0.1 + 0.2, "ä\n", True]}, 1e-300])
def test_sealed_values_come_back(value: object, tmp_path: Path) -> None:
    assert unsealed(sealed(value)) == value
    write_sealed(tmp_path / "a.json", value)
    assert read_sealed(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", ["", "3", "[]", "{}", '{"value": 1}', '{"sha256": "", "value": 1}', "[" * 100_000])
def test_what_is_not_sealed_is_no_value(content: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="damaged"):
        unsealed(content)
    (tmp_path / "a.json").write_text(content)
    assert read_sealed(tmp_path / "a.json") is None
    assert read_sealed(tmp_path / "b.json") is None


def test_a_changed_digit_is_found() -> None:
    with pytest.raises(ValueError, match="damaged"):
        unsealed(sealed({"kl": 0.25}).replace("0.25", "0.26"))


def test_lines_are_kept_in_order_and_damaged_ones_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with JsonLines(path) as lines:
        assert list(lines.values()) == []
        for value in range(4):
            lines.append({"value": value})
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        content[0] + content[1].replace(b'"value": 1', b'"value": 9') + b"\xff\n" + content[2] + content[3][:9]
    )
    with JsonLines(path) as lines, JsonLines(path) as others:
        assert [value["value"] for value in lines.values()] == [0, 2]
        others.append({"value": 5})
        lines.append({"value": 6})
        assert [value["value"] for value in lines.values()] == [0, 2, 5, 6]
        lines.discard()
    assert not path.exists()


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=r"cannot be written .*; do this"),
        JsonLines(tmp_path / "no" / "a", "do this"),
    ):
        pass


def test_bytes_are_those_of_the_array_itself() -> None:
    array = np.zeros((2, 3), np.float32)
    bytes_of(array)[:4] = np.float32(1).tobytes()
    assert array[0, 0] == 1
    assert len(bytes_of(np.zeros((0, 3)))) == 0
    with pytest.raises(ValueError, match="contiguous"):
        bytes_of(array.T)


def test_reading_behind_the_end_is_told(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as file:
        write_at(file.fileno(), b"abcdef", 2)
        found = bytearray(4)
        read_at(file.fileno(), memoryview(found), 4)
        assert found == b"cdef"
        with pytest.raises(EOFError, match="ends at byte 8"):
            read_at(file.fileno(), memoryview(found), 5)
