"""The durable side of an evaluation: every reading is on the disk before the next begins.

JSON Lines, one reading each, metrics as base64 of float64, so what is read back is bit for bit what was written. A line
that a kill cut short is no JSON; that passage is read again.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from q3edge.evaluation.cache import writing
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.scorecard.readings import NextTokens, Place, Reading

_FIELDS = len(fields(TokenMetrics))


class ReadingJournal:
    """Readings by passage number, kept in one file; use as a context manager.

    Two processes may append to one file: both write the same, and of a passage the last line counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> Self:
        with writing(self._path):
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")  # ends a line that was cut short
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        os.close(self._file)

    def load(self) -> dict[int, Reading | None]:
        """What is there already: passage number -> reading, None where its logits were NaN or infinite."""
        found = {}
        for line in self._path.read_bytes().splitlines():
            try:
                raw = json.loads(line)
                found[int(raw["passage"])] = _reading(raw["reading"])
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def append(self, passage: int, reading: Reading | None) -> None:
        """Make one reading durable; ResourceError: the disk is full."""
        line = json.dumps({"passage": passage, "reading": _plain(reading)}) + "\n"
        with writing(self._path):
            os.write(self._file, line.encode())
            os.fsync(self._file)

    def discard(self) -> None:
        """Remove the file: the evaluation is finished."""
        self._path.unlink(missing_ok=True)


def _plain(reading: Reading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    metrics = np.stack([getattr(reading.metrics, field.name) for field in fields(TokenMetrics)])
    worst = reading.worst
    return {
        "metrics": base64.b64encode(metrics.astype("<f8").tobytes()).decode(),
        "worst": [worst.position, worst.kl, worst.reference_next, worst.candidate_next],
        "choices": [reading.reference_choice, reading.candidate_choice],
    }


def _reading(raw: dict[str, Any] | None) -> Reading | None:
    if raw is None:
        return None
    metrics = np.frombuffer(base64.b64decode(raw["metrics"], validate=True), "<f8").reshape(_FIELDS, -1)
    position, kl, reference_next, candidate_next = raw["worst"]
    worst = Place(position, kl, _next(reference_next), _next(candidate_next))
    return Reading(TokenMetrics(*metrics.astype(np.float64)), worst, *raw["choices"])


def _next(raw: list[list[Any]]) -> NextTokens:
    return tuple((token, probability) for token, probability in raw)
