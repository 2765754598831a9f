"""Calibration tokens frozen elsewhere: a .npy file of token ids. Copies of rows and padding are no data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import Notice
from q3edge.calibration.data.calibration_set import CalibrationSet, SourceCount
from q3edge.calibration.data.loading import MIN_SEQ_LEN
from q3edge.errors import InputError
from q3edge.storage.regular_files import check_regular

TOKEN_FILE = ".npy"
_SHORTEST_PADDING = 8  # of one token at an end of a row; a line of dashes is shorter
_MOST_PADDING = 0.5  # share of a row


def load_token_file(path: Path, vocab_size: int, context: int) -> CalibrationSet:
    """Read integers [samples, seq_len], of which copies of earlier rows and rows that are mostly padding are left out.

    Padding is 8 or more times the same token at the beginning or the end of a row. Rows longer than the context are
    cut. InputError: not such a file, ids outside 0..vocab_size - 1, rows of less than 16 tokens, or no row left.
    """
    ids = _mapped(path)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        raise InputError(f"{path}: {ids.dtype} {list(ids.shape)}; expected integers [samples, seq_len]")
    if ids.shape[1] < MIN_SEQ_LEN:
        raise InputError(f"{path}: rows of {ids.shape[1]} tokens; expected {MIN_SEQ_LEN} or more")
    if not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise InputError(f"{path}: token ids {ids.min()}..{ids.max()}; expected 0..{vocab_size - 1}")
    rows = np.ascontiguousarray(ids[:, :context], np.int64)
    padding = _padding(rows)
    padded = padding > _MOST_PADDING * rows.shape[1]
    copies = _copies(rows) & ~padded
    kept = ~(padded | copies)
    if not kept.any():
        raise InputError(f"{path}: nothing is left of its {len(rows)} rows: all are mostly padding; give real text")
    dropped = {"duplicate": int(copies.sum()), "padding": int(padded.sum())}
    dropped = {reason: count for reason, count in dropped.items() if count}
    cut = ids.shape[1] - rows.shape[1]
    notices = tuple(_notices(dropped, len(rows) if cut else 0, context, int(padding[kept].sum())))
    source = SourceCount(path.name, {}, len(rows), int(kept.sum()), rows[kept].size, dropped)
    return CalibrationSet(rows[kept], (source,), {}, {}, 0, notices)


def _mapped(path: Path) -> NDArray[Any]:
    """Map the array of a .npy file, so that a header that promises more than the file has takes no memory."""
    try:
        check_regular(path)
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        problem = error.strerror or str(error)
    except Exception as error:  # whatever a damaged header provokes in numpy's parser
        problem = str(error) or type(error).__name__
    else:
        if isinstance(ids, np.ndarray):
            return ids
        ids.close()
        problem = "it is a .npz archive"
    raise InputError(f"{path}: cannot be read as a .npy file ({problem}); expected integers [samples, seq_len]")


def _copies(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row was there before, bool [samples]."""
    seen: set[bytes] = set()
    found = np.zeros(len(rows), bool)
    for index, row in enumerate(rows):
        content = row.tobytes()
        found[index] = content in seen
        seen.add(content)
    return found


def _padding(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of tokens of padding in each row, int64 [samples]."""
    runs = np.stack([_run(rows), _run(rows[:, ::-1])])
    runs[:, runs[0] == rows.shape[1]] //= 2  # both runs are the whole row
    tokens: NDArray[np.int64] = np.where(runs < _SHORTEST_PADDING, 0, runs).sum(axis=0)
    return tokens


def _run(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of tokens at the beginning of each row that equal its first, int64 [samples]."""
    other = rows != rows[:, :1]
    lengths: NDArray[np.int64] = np.where(other.any(axis=1), other.argmax(axis=1), rows.shape[1])
    return lengths


def _notices(dropped: dict[str, int], cut: int, context: int, padding: int) -> Iterator[Notice]:
    if cut:
        detail = f"rows were cut to {context} tokens, the model's whole context"
        yield Notice("calibration-rows-cut", cut, detail)
    if count := dropped.get("padding"):
        detail = "rows are mostly one token repeated at an end (padding) and are not used for calibration"
        yield Notice("calibration-padding", count, detail)
    if count := dropped.get("duplicate"):
        yield Notice("calibration-duplicate", count, "rows are there twice and are not used for calibration")
    if padding:
        detail = "tokens of the rows that are used are padding, and count for the model's inputs as text does"
        yield Notice("calibration-padding-tokens", padding, detail)
