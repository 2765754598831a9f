"""Reading passages: how many are read at once, or came from a journal, changes no number."""

from __future__ import annotations

import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.streams import ComparedDecoder
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.scorecard.passages import Passage
from q3edge.evaluation.scorecard.reading_journal import ReadingJournal
from q3edge.evaluation.scorecard.readings import Reading
from q3edge.evaluation.scorecard.teacher_forced import ReadingRun, read_all
from q3edge.evaluation.suites.suite import Item
from tests.helpers.decoders import ReferenceDecoder
from tests.helpers.models import InMemoryWeights

LENGTHS = (20, 300, 7, 41, 40, 260, 33)  # some longer than one chunk of logits


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    random = np.random.default_rng(0)
    windows = [Window("math", random.integers(0, 320, length + 1)) for length in LENGTHS]
    item = Item("i", "answer", "math", "en", "?", "a", "a")
    return [Passage("ab"[n % 2], item, window, 0, LENGTHS[n]) for n, window in enumerate(windows)]


class Noisy(ReferenceDecoder):
    """Its logits are a little off; remembers the threads that asked for them."""

    def __init__(self, source: InMemoryWeights) -> None:
        super().__init__(source, lambda logits, cached: logits + np.float32(0.1) * np.cos(logits * 40 + cached))
        self.threads: set[int] = set()

    def forward(
        self, input_ids: NDArray[np.int64], cache: list[NDArray[np.int64]], *, keep: int = 1
    ) -> NDArray[np.float32]:
        self.threads.add(threading.get_ident())
        return super().forward(input_ids, cache, keep=keep)


def run(passages: list[Passage], workers: int, journal: ReadingJournal | None = None) -> tuple[ReadingRun, Noisy]:
    source = InMemoryWeights.random(1)
    decoder = Noisy(source)
    reference = FloatReference(source)
    return read_all(passages, reference, ComparedDecoder(decoder), journal, workers=workers), decoder


def same(one: Reading | None, other: Reading | None) -> bool:
    assert one is not None
    assert other is not None
    metrics = (np.array_equal(*(getattr(x.metrics, f.name) for x in (one, other))) for f in fields(TokenMetrics))
    return all(metrics) and one.worst == other.worst


def test_workers_change_nothing_but_who_reads(passages: list[Passage]) -> None:
    (alone, _), (together, decoder) = run(passages, 1), run(passages, 3)
    assert [len(reading.metrics) for reading in alone.readings if reading] == list(LENGTHS)
    assert all(reading.metrics.kl.mean() > 1e-4 for reading in alone.readings if reading)
    assert all(map(same, alone.readings, together.readings))
    assert together.tokens == sum(LENGTHS)
    assert len(decoder.threads) > 1
    assert min(together.seconds.values()) > 0


def test_what_the_journal_has_is_not_read_again(passages: list[Passage], tmp_path: Path) -> None:
    alone, _ = run(passages, 1)
    with ReadingJournal(tmp_path / "journal") as journal:
        for number in (1, 4):
            journal.append(number, alone.readings[number])
        rest, _ = run(passages, 3, journal)
        assert (rest.resumed, rest.tokens) == (2, sum(LENGTHS) - LENGTHS[1] - LENGTHS[4])
        assert all(map(same, alone.readings, rest.readings))
        again, decoder = run(passages, 3, journal)
    assert (again.resumed, again.tokens, decoder.threads) == (len(LENGTHS), 0, set())
