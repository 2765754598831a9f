"""The teacher-forced run: both models read every passage that the journal does not have, and time is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock

from q3edge.evaluation.distance.chain import read_windows
from q3edge.evaluation.distance.streams import ComparedModel, LogitsChunks
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.scorecard.passages import Passage
from q3edge.evaluation.scorecard.reading_journal import ReadingJournal
from q3edge.evaluation.scorecard.readings import Reading, read_passage

MAX_WORKERS = 8  # each has logits [CHUNK, V] of both models in memory, 311 MB with Qwen3's vocabulary


@dataclass(frozen=True, slots=True)
class ReadingRun:
    """Result of a teacher-forced run. readings: of every passage, None where logits were NaN or infinite; resumed: how
    many of them came from the journal.

    seconds: of the "reference" and of the "candidate" model, with all workers busy; tokens: what both read in this run.
    """

    readings: tuple[Reading | None, ...]
    resumed: int
    tokens: int
    seconds: Mapping[str, float]


def read_all(
    passages: Sequence[Passage],
    reference: ComparedModel,
    candidate: ComparedModel,
    journal: ReadingJournal | None,
    *,
    workers: int = 1,
) -> ReadingRun:
    """Read every passage that `journal` does not have, a batch at a time, and append it there.

    workers: how many passages are read at once; the candidate's forward then runs in several threads.
    """
    readings = journal.load() if journal else {}
    known, tokens, clock = frozenset(readings), 0, _Clock(workers)
    windows = [passage.window for passage in passages]
    models = (_Timed(reference, "reference", clock), _Timed(candidate, "candidate", clock))
    suites = [passage.suite for passage in passages]
    read = partial(_read, passages)
    for number, reading in read_windows(windows, models, read, groups=suites, known=known, workers=workers):
        readings[number] = reading
        if journal:
            journal.append(number, reading)
        tokens += len(windows[number].inputs)
    return ReadingRun(tuple(readings[number] for number in range(len(passages))), len(known), tokens, clock.seconds)


def _read(passages: Sequence[Passage], number: int, logits: Sequence[LogitsChunks]) -> Reading | None:
    return read_passage(passages[number], logits)


class _Timed:
    """A model whose time is counted, that of making its logits included."""

    def __init__(self, model: ComparedModel, name: str, clock: _Clock) -> None:
        self._model, self._name, self._clock = model, name, clock

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        """Logits of each window, float32 [<= CHUNK, V] at a time, whose making is timed."""
        with self._clock.counting(self._name):
            made = self._model.logits(windows)
        return [self._clock.watch(self._name, chunks) for chunks in made]


class _Clock:
    """Clock of the seconds spent by name; those of one of several workers count as a share of them all."""

    def __init__(self, workers: int) -> None:
        self.seconds = {"reference": 0.0, "candidate": 0.0}
        self._workers, self._lock = workers, Lock()

    @contextmanager
    def counting(self, name: str, workers: int = 1) -> Iterator[None]:
        """Count the block's wall time to `name`, as one of so many workers."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.seconds[name] += (time.perf_counter() - start) / workers

    def watch(self, name: str, chunks: LogitsChunks) -> LogitsChunks:
        """Pass on chunks made by a worker; the time that making each takes is counted."""
        while True:
            with self.counting(name, self._workers):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk
