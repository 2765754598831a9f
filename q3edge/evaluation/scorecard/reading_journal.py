"""`ReadingJournal`: finished readings of an evaluation, each flushed to disk as soon as it is given.

Metrics are base64 of float64, so what is read back is bit for bit what was written. A passage whose line is damaged is
read again.
"""

from __future__ import annotations

import base64
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from q3edge.evaluation.cache import ADVICE
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.scorecard.readings import NextTokens, Place, Reading
from q3edge.storage.json_lines import JsonLines

_FIELDS = len(fields(TokenMetrics))


class ReadingJournal:
    """Readings by passage number, kept in one file; use as a context manager.

    Two processes may append to one file: both write the same, and of a passage the last line counts.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path, ADVICE)

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._lines.close()

    def load(self) -> dict[int, Reading | None]:
        """Load finished readings: passage number -> reading, None where its logits were NaN or infinite."""
        return {raw["passage"]: _reading(raw["reading"]) for raw in self._lines.values()}

    def append(self, passage: int, reading: Reading | None) -> None:
        """Make one reading durable; ResourceError: the disk is full."""
        self._lines.append({"passage": passage, "reading": _plain(reading)})

    def discard(self) -> None:
        """Remove the file: the evaluation is finished."""
        self._lines.discard()


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
