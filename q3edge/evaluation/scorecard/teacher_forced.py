"""The teacher-forced run: both models read every passage, what a journal has is not read again, and time is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock

from q3edge import progress
from q3edge.evaluation.distance.references import Reference, batches
from q3edge.evaluation.distance.streams import CausalDecoder, LogitsChunks, decoder_logits
from q3edge.evaluation.scorecard.passages import Passage
from q3edge.evaluation.scorecard.reading_journal import ReadingJournal
from q3edge.evaluation.scorecard.readings import Reading, read_passage
from q3edge.reference.parallel import ordered_map

MAX_WORKERS = 8  # each has logits [CHUNK, V] of both models in memory, 311 MB with Qwen3's vocabulary


@dataclass(frozen=True, slots=True)
class ReadingRun:
    """readings: of every passage, None where logits were NaN or infinite. resumed: how many came from the journal.

    seconds: of the "reference" and of the "candidate" model, with all workers busy; tokens: what both read in this run.
    """

    readings: tuple[Reading | None, ...]
    resumed: int
    tokens: int
    seconds: Mapping[str, float]


def read_all(
    passages: Sequence[Passage],
    reference: Reference,
    candidate: CausalDecoder,
    journal: ReadingJournal | None,
    *,
    workers: int = 1,
) -> ReadingRun:
    """Read every passage that `journal` does not have, a batch at a time, and append it there.

    workers: how many passages are read at once; the candidate's forward then runs in several threads.
    """
    readings = journal.load() if journal else {}
    resumed, tokens, clock = len(readings), 0, _Clock(workers)
    lengths = [len(passage.window.inputs) for passage in passages]
    with progress.task("compare", sum(lengths)) as advance:
        for batch in batches(lengths, [passage.suite for passage in passages]):
            missing = [number for number in batch if number not in readings]
            advance(sum(lengths[number] for number in batch if number in readings))
            if not missing:
                continue
            # The whole batch, whatever is missing of it: its hidden states have one key in the cache.
            with clock.counting("reference"):
                logits = dict(zip(batch, reference.logits([passages[number].window for number in batch])))
            missing.reverse()  # the longest first: near the end no worker waits long for another
            read = partial(_read, passages, logits, candidate, clock)
            for reading, number in zip(ordered_map(read, missing, workers=workers), missing, strict=True):
                readings[number] = reading
                if journal:
                    journal.append(number, reading)
                tokens += lengths[number]
                advance(lengths[number])
    return ReadingRun(tuple(readings[number] for number in range(len(passages))), resumed, tokens, clock.seconds)


def _read(
    passages: Sequence[Passage],
    logits: Mapping[int, LogitsChunks],
    candidate: CausalDecoder,
    clock: _Clock,
    number: int,
) -> Reading | None:
    expected = clock.watch("reference", logits[number])
    found = clock.watch("candidate", decoder_logits(candidate, passages[number].window.inputs))
    return read_passage(passages[number], expected, found)


class _Clock:
    """Seconds spent by name; those of one of several workers are a share of them all."""

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
        """The same chunks, made by a worker; the time that making each takes is counted."""
        while True:
            with self.counting(name, self._workers):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk
