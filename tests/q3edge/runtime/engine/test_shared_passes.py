"""A chunk of a prompt in the pass of the running requests' tokens, where the kernels can compute any rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from q3edge.runtime.engine.chunk_size import ChunkSize
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.requests import Event
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.scoring import Scoring
from q3edge.runtime.generation.settings import GenerationSettings
from tests.helpers.engine import alone, drained, engine_of, request, tokens_of
from tests.helpers.runtime import FakeDecoder


class AnyRows(FakeDecoder):
    """A decoder whose passes may have any tokens of each row; the pass `fails_at` fails."""

    any_rows = True
    fails_at = -1

    def forward_rows(self, *arguments: Any, **settings: Any) -> np.ndarray:
        """Append tokens to rows."""
        if len(self.passes) == self.fails_at:
            raise MemoryError("no more")
        return super().forward_rows(*arguments, **settings)


@pytest.fixture(autouse=True)
def chunks_of_8_that_ride(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock they would differ from run to run."""
    monkeypatch.setattr(ChunkSize, "choose", lambda self, prompts: 8)
    monkeypatch.setattr(ChunkSize, "rides", lambda self, tokens, prompts, rows: True)


def with_two_running(decoder: FakeDecoder, **settings: Any) -> tuple[Engine, list[int], list[Event]]:
    """An engine, its requests, and their first tokens."""
    engine = engine_of(decoder, 4, **settings)
    numbers = [engine.add(request([i, 2], GenerationSettings(30))) for i in (1, 3)]
    events: list[Event] = []
    while engine.running < 2 or engine._reading:
        events += engine.step()
    decoder.passes.clear()
    return engine, numbers, events


def test_tokens_come_while_a_prompt_is_read_and_all_are_those_of_each_alone() -> None:
    decoder = AnyRows(2)
    engine, numbers, events = with_two_running(decoder)
    before = [len(tokens_of(events, number)) for number in numbers]
    long = engine.add(request([5] * 35, GenerationSettings(4)))
    for _ in range(5):
        events += engine.step()
    assert decoder.passes == [8 + 2, 8 + 2, 8 + 2, 8 + 2, 3 + 2]
    assert [len(tokens_of(events, number)) for number in numbers] == [count + 5 for count in before]
    events += drained(engine)
    assert tokens_of(events, long) == alone([5] * 35, GenerationSettings(4))
    assert [tokens_of(events, number) for number in numbers] == [alone([i, 2], GenerationSettings(30)) for i in (1, 3)]


def test_a_text_that_is_scored_has_the_logits_of_all_its_tokens() -> None:
    found = []
    for decoder in (AnyRows(2), FakeDecoder(2)):
        engine, _, _ = with_two_running(decoder)
        scoring = Scoring([5, 1, 7] * 9, 300, first=3, top=2)
        engine.add(scoring)
        drained(engine)
        found.append(scoring.logprobs)
    assert found[0] == found[1]
    assert len(found[0]) == 24


@pytest.mark.parametrize("how", ["deterministic", "patient", "kernels that cannot"])
def test_there_is_no_such_pass(how: str) -> None:
    """Nor where one row's tokens are to be those that it gets alone, or nobody waits for single tokens."""
    decoder = FakeDecoder(2) if how == "kernels that cannot" else AnyRows(2)
    engine = engine_of(decoder, 4, deterministic=how == "deterministic")
    for i in (1, 3):
        engine.add(request([i, 2], GenerationSettings(30)), patient=how == "patient")
    for _ in range(6):
        engine.step()
    decoder.passes.clear()
    engine.add(request([5] * 35, GenerationSettings(4)))
    drained(engine)
    assert not {8 + 2, 35 + 2} & set(decoder.passes)


def test_a_pass_that_fails_ends_all_of_its_requests_and_the_engine_goes_on() -> None:
    decoder = AnyRows(2)
    engine, numbers, _ = with_two_running(decoder)
    numbers.append(engine.add(request([5] * 35, GenerationSettings(4))))
    decoder.fails_at = 1
    events = drained(engine)
    assert {event.id: type(event.error) for event in events if event.error} == dict.fromkeys(numbers, MemoryError)
    assert engine.slots.taken == 0
    again = engine.add(request([1, 2], GenerationSettings(3)))
    assert tokens_of(drained(engine), again) == alone([1, 2], GenerationSettings(3))


def test_one_that_has_no_room_hurts_no_other() -> None:
    decoder = AnyRows(2, context=40)
    engine = engine_of(decoder, 4)
    runs = engine.add(request([1, 2], GenerationSettings(30)))
    events = engine.step()
    too_long = engine.add(Request([5] * 50, GenerationSettings(4), 300))
    events += drained(engine)
    assert [event.id for event in events if event.error] == [too_long]
    assert tokens_of(events, runs) == alone([1, 2], GenerationSettings(30))
