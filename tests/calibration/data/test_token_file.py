"""Token ids of a .npy file: copies, padding and what is too long are told; what is no such file is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.calibration.data import CalibrationSet, load_token_file
from q3edge.errors import InputError
from tests.helpers.calibration import random_tokens

ROWS = random_tokens(4, 32)


def load(folder: Path, ids: NDArray[Any], context: int = 64) -> CalibrationSet:
    np.save(folder / "ids.npy", ids)
    return load_token_file(folder / "ids.npy", 320, context)


def counts(found: CalibrationSet) -> dict[str, int]:
    return {notice.code.removeprefix("calibration-"): notice.count for notice in found.notices}


def padded(row: NDArray[np.int64], tokens: int, left: bool = False) -> NDArray[np.int64]:
    """The row with so many tokens of padding at an end, and another token beside them."""
    row = row.copy()
    row[tokens if left else -tokens - 1] = 1
    row[slice(tokens) if left else slice(-tokens, None)] = 2
    return row


@pytest.mark.parametrize("dtype", ["<i8", "<i4", ">i4", "u2", "u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_used_as_they_are(tmp_path: Path, dtype: str, order: Any) -> None:
    found = load(tmp_path, np.asarray(ROWS.astype(dtype), order=order))
    np.testing.assert_array_equal(found.token_ids, ROWS)
    assert found.token_ids.dtype == np.int64
    assert (found.sources[0].read, found.sources[0].kept, found.sources[0].tokens) == (4, 4, 4 * 32)
    assert not found.notices


def test_q16_copies_are_used_once(tmp_path: Path) -> None:
    found = load(tmp_path, ROWS[[0, 1, 0, 0, 2, 1]])
    np.testing.assert_array_equal(found.token_ids, ROWS[:3])
    assert found.sources[0].dropped == {"duplicate": 3}
    assert counts(found) == {"duplicate": 3}


@pytest.mark.parametrize("left", [False, True])
def test_q16_rows_that_are_mostly_padding_are_left_out(tmp_path: Path, left: bool) -> None:
    found = load(tmp_path, np.stack([ROWS[0], padded(ROWS[1], 17, left), padded(ROWS[2], 16, left)]))
    assert found.sources[0].dropped == {"padding": 1}
    assert counts(found) == {"padding": 1, "padding-tokens": 16}
    assert len(found.token_ids) == 2


def test_q16_short_runs_are_no_padding(tmp_path: Path) -> None:
    assert counts(load(tmp_path, np.stack([padded(ROWS[0], 7), ROWS[1]]))) == {}


def test_q16_rows_longer_than_the_context_are_cut(tmp_path: Path) -> None:
    found = load(tmp_path, ROWS, context=24)
    np.testing.assert_array_equal(found.token_ids, ROWS[:, :24])
    assert counts(found) == {"rows-cut": 4}


@pytest.mark.parametrize("row", [np.full(32, 5), padded(ROWS[0], 30)])
def test_q16_nothing_left_is_refused(tmp_path: Path, row: NDArray[np.int64]) -> None:
    with pytest.raises(InputError, match=r"ids\.npy: nothing is left of its 8 rows: all are mostly padding"):
        load(tmp_path, np.tile(row, (8, 1)))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (ROWS.astype(np.float32), r"float32 \[4, 32\]; expected integers \[samples, seq_len\]"),
        (ROWS.reshape(2, 2, 32), r"int64 \[2, 2, 32\]; expected integers"),
        (ROWS[0], r"int64 \[32\]; expected integers"),
        (ROWS.astype("m8[s]"), r"timedelta64\[s\] \[4, 32\]; expected integers"),
        (ROWS > 3, r"bool \[4, 32\]; expected integers"),
        (np.zeros((4, 32), [("a", "i4")]), r"\[\('a', '<i4'\)\] \[4, 32\]; expected integers"),
        (np.zeros((0, 32), int), r"int64 \[0, 32\]; expected integers"),
        (ROWS.astype(object), "cannot be read as a .npy file"),
        (ROWS[:, :15], "rows of 15 tokens; expected 16 or more"),
        (ROWS - 1000, r"token ids -\d+\.\.-\d+; expected 0\.\.319"),
        (ROWS + 300, r"token ids \d+\.\.\d+; expected 0\.\.319"),
    ],
)
def test_r14_arrays_of_the_wrong_kind(tmp_path: Path, ids: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"ids\.npy: {message}") as caught:
        load(tmp_path, ids)
    assert str(caught.value).isprintable()


@pytest.mark.filterwarnings("error")
def test_r14_a_header_of_python_2_is_read_in_silence(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", ROWS)
    content = (tmp_path / "ids.npy").read_bytes()
    (tmp_path / "ids.npy").write_bytes(content.replace(b"(4, 32), }  ", b"(4L, 32L), }"))
    np.testing.assert_array_equal(load_token_file(tmp_path / "ids.npy", 320, 64).token_ids, ROWS)


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=ROWS)


def promise(path: Path) -> None:
    """Write a file whose header promises a terabyte."""
    np.save(path, np.zeros((4, 32), np.int8))
    path.write_bytes(path.read_bytes().replace(b"(4, 32), }" + b" " * 18, b"(99999999999, 32), }" + b" " * 8))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"), ""),
        (lambda path: path.write_text("hello"), ""),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file"),
        (archive, "a .npz archive"),
        (promise, ""),
        pytest.param(
            lambda path: os.mkfifo(path), "not a regular file",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names"),
        ),
    ],
)  # fmt: skip
def test_r14_what_is_no_npy_file(tmp_path: Path, prepare: Callable[[Path], None], message: str) -> None:
    prepare(tmp_path / "ids.npy")
    with pytest.raises(InputError, match=rf"ids\.npy: cannot be read as a \.npy file \(.*{message}.*\); expected"):
        load_token_file(tmp_path / "ids.npy", 320, 64)
