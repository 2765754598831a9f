"""Ctrl-C in the middle of a pass, and streams that are dropped in the middle of one: nobody else notices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from linecache import getline
from threading import Thread
from types import FrameType
from typing import Any

import pytest

from q3edge.errors import UsageError
from q3edge.runtime.engine.chunk_size import ChunkSize
from q3edge.runtime.engine.requests import Generation
from q3edge.runtime.engine.slots import Slot
from q3edge.runtime.generation.settings import GenerationSettings
from tests.helpers.engine import alone, engine_of, request, tokens_of
from tests.helpers.runtime import FakeDecoder


@pytest.mark.parametrize("taken", [0, 4])
def test_an_interruption_ends_the_request_that_was_half_moved_on_and_no_other(taken: int) -> None:
    seen: list[int] = []

    def interrupt(token: int) -> bool:
        seen.append(token)
        if len(seen) > taken:
            raise KeyboardInterrupt
        return False

    engine = engine_of(FakeDecoder(2))
    numbers = [engine.add(request([1, 2])), engine.add(request([3, 4], watch=interrupt)), engine.add(request([5, 6]))]
    events = []
    while engine.busy:
        try:
            events += engine.step()
        except KeyboardInterrupt:
            continue
    assert [event.id for event in events if event.error] == [numbers[1]]
    assert tokens_of(events, numbers[0]) == alone([1, 2])
    assert tokens_of(events, numbers[1]) == seen[:-1]
    assert tokens_of(events, numbers[2]) == alone([5, 6])


@pytest.mark.parametrize("first_line", range(10))
@pytest.mark.parametrize("any_rows", [False, True])
def test_an_interruption_anywhere_hangs_nobody_and_changes_no_token(
    any_rows: bool, first_line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before each of the engine's lines that the main thread runs while it reads one of two answers."""
    monkeypatch.setattr("q3edge.runtime.engine.engine._LOST", 0.01)
    monkeypatch.setattr(FakeDecoder, "any_rows", any_rows)
    monkeypatch.setattr(ChunkSize, "rides", lambda self, tokens, prompts, rows: True)  # not as the clock has it
    line, met = first_line, True
    while met:
        engine = engine_of(FakeDecoder(2), 2)
        mine, others = (engine.generate(request(prompt, GenerationSettings(4))) for prompt in ([1, 2], [3, 4]))
        met = _interrupted(lambda mine=mine: list(mine), line)  # type: ignore[misc]
        mine.close()
        found: list[list[int] | Exception] = []
        waiting = Thread(target=lambda others=others, found=found: found.append(_read(others)), daemon=True)
        waiting.start()
        waiting.join(60)
        assert found, "it still waits"
        assert found[0] == alone([3, 4], GenerationSettings(4)) or "interrupted" in str(found[0])
        assert not engine.busy
        assert engine.slots.taken == 0
        line += 10


def _read(generation: Generation) -> list[int] | Exception:
    try:
        return list(generation)
    except UsageError as error:
        return error


def _interrupted(call: Callable[[], object], line: int) -> bool:
    """Raise KeyboardInterrupt before the given line of engine and slots that `call` comes to; whether it does."""
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if "runtime/engine/" not in frame.f_code.co_filename:
            return None
        # `with` is no place: it lets go of a lock in one step.
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with "):
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_stream_that_is_dropped_while_others_are_removed_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel_two(token: int) -> bool:
        engine.cancel(numbers[0])
        engine.cancel(numbers[1])
        return False

    engine = engine_of(FakeDecoder(2), 3)
    numbers = [engine.add(request([i, 1])) for i in (1, 2)]
    numbers.append(engine.add(request([3, 1], watch=cancel_two)))
    give_back = engine.slots.give_back

    def collect(slot: Slot) -> None:  # as where the memory of a stream in a cycle of references is freed just then
        give_back(slot)
        monkeypatch.undo()
        engine.cancel(numbers[2])

    monkeypatch.setattr(engine.slots, "give_back", collect)
    while engine.busy:
        engine.step()
    assert engine.slots.taken == 0
