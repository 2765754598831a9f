"""The teacher-forced run: both models read every passage, what a journal has is not read again, and time is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from q3edge.evaluation.passages import Passage
from q3edge.evaluation.reading_journal import ReadingJournal
from q3edge.evaluation.readings import Reading, read_passage
from q3edge.evaluation.references import Reference, batches
from q3edge.evaluation.streams import CausalDecoder, LogitsChunks, decoder_logits
from q3edge.progress import Progress


@dataclass(frozen=True, slots=True)
class ReadingRun:
    """readings: of every passage, None where logits were NaN or infinite. resumed: how many came from the journal.

    seconds: wall time of the "reference" and of the "candidate" model; tokens: what both read in this run.
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
    progress: Progress,
) -> ReadingRun:
    """Read every passage that `journal` does not have, a batch at a time, and append it there."""
    readings = journal.load() if journal else {}
    resumed, tokens, clock = len(readings), 0, _Clock()
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
            for number in missing:
                passage = passages[number]
                expected = clock.watch("reference", logits[number])
                found = clock.watch("candidate", decoder_logits(candidate, passage.window.inputs))
                readings[number] = read_passage(passage, expected, found)
                if journal:
                    journal.append(number, readings[number])
                tokens += lengths[number]
                advance(lengths[number])
    return ReadingRun(tuple(readings[number] for number in range(len(passages))), resumed, tokens, clock.seconds)


class _Clock:
    """Seconds spent by name."""

    def __init__(self) -> None:
        self.seconds = {"reference": 0.0, "candidate": 0.0}

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Count the block's wall time to `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def watch(self, name: str, chunks: LogitsChunks) -> LogitsChunks:
        """The same chunks; the time that making each takes is counted."""
        while True:
            with self.counting(name):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk
