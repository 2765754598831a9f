"""Requests that join and leave at any moment get what each gets alone, and one that fails hurts no other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.errors import UsageError
from q3edge.runtime.engine.requests import Event
from q3edge.runtime.engine.slots import PREFILL_CHUNK
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.kv_cache import GROWTH_STEP
from tests.helpers.engine import alone, drained, ends, engine_of, request, tokens_of
from tests.helpers.runtime import FakeDecoder


@settings(max_examples=150, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 300, 800]),
)
def test_requests_that_come_and_go_get_what_each_gets_alone(
    random: Random, rows: int, any_rows: bool, deterministic: bool, budget: int | None
) -> None:
    decoder = FakeDecoder(2)
    decoder.any_rows = any_rows
    engine = engine_of(decoder, rows, kept=random.randrange(4), budget=budget, deterministic=deterministic)
    beginnings = [[random.randrange(12) for _ in range(40)] for _ in range(2)]
    asked: dict[int, tuple[list[int], GenerationSettings]] = {}
    cancelled: set[int] = set()
    events: list[Event] = []
    for _ in range(60):
        happening = random.random()
        if happening < 0.3 and len(asked) < 12:
            prompt = [*random.choice(beginnings)[: random.randrange(1, 41)], random.randrange(12)]
            chosen = GenerationSettings(
                random.randrange(1, 60), random.choice([0.0, 1.0]), seed=len(asked), stop_token_ids=frozenset({11}),
                repetition_penalty=random.choice([1.0, 1.2]),
            )  # fmt: skip
            draft = NGramDraft() if random.random() < 0.5 else None
            asked[engine.add(request(prompt, chosen, draft=draft), patient=random.random() < 0.5)] = prompt, chosen
        elif happening < 0.4 and asked:
            number = random.choice(list(asked))
            if number not in ends(events):
                cancelled.add(number)
            engine.cancel(number)
        else:
            events += engine.step()
        assert engine.slots.taken <= rows
        for slot in engine.slots._slots:
            assert decoder.caches[0].rows[slot.row][: len(slot.ids)] == slot.ids
    events += drained(engine)
    assert engine.slots.taken == 0
    assert sorted(ends(events)) == sorted(set(asked) - cancelled)
    for number, (prompt, chosen) in asked.items():
        expected = alone(prompt, chosen)
        found = tokens_of(events, number)
        assert found == (expected[: len(found)] if number in cancelled else expected)


def test_running_requests_share_passes() -> None:
    decoder = FakeDecoder(2)
    engine = engine_of(decoder)
    for i in range(3):
        engine.add(request([i, i + 1], GenerationSettings(30)))
    drained(engine)
    assert sum(decoder.passes) == 3 * (2 + 29)
    assert 25 <= decoder.passes.count(3) <= 29


def test_a_prompt_is_read_in_turn_with_the_tokens_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a token of a chunk takes a quarter of a pass, so that a chunk takes up its time."""
    decoder = FakeDecoder(2)
    monkeypatch.setattr("time.perf_counter", lambda: sum(max(1.0, size / 4) for size in decoder.passes))
    engine = engine_of(decoder)
    first = engine.add(request([1, 2], GenerationSettings(200)))
    while not engine._running:
        engine.step()
    passes = len(decoder.passes)
    second = engine.add(request([3] * 60, GenerationSettings(5)))
    events: list[Event] = []
    while not tokens_of(events, second):
        before = len(decoder.passes)
        events += engine.step()
        assert len(decoder.passes) == before + 1
    chunks = sum(size > 1 for size in decoder.passes[passes:])
    assert chunks > 1  # it was not read at once
    assert len(tokens_of(events, first)) >= chunks - 1


@pytest.mark.parametrize("how", ["patient", "deterministic"])
def test_whole_chunks_are_read_where_nobody_waits_or_all_is_as_alone(how: str) -> None:
    decoder = FakeDecoder(2, context=2000)
    engine = engine_of(decoder, deterministic=how == "deterministic")
    engine.add(Request([1, 2], GenerationSettings(1000), 2000), patient=True)
    for _ in range(3):
        engine.step()
    decoder.passes.clear()
    engine.add(Request([3] * 600, GenerationSettings(5), 2000))
    for _ in range(7):
        engine.step()
    assert [size for size in decoder.passes if size > 2] == [PREFILL_CHUNK, PREFILL_CHUNK, 600 - 2 * PREFILL_CHUNK]


def test_a_short_prompt_does_not_wait_for_all_of_a_long_one() -> None:
    """The two take turns, and what is as long waits for its own: a prompt finds what those before it have."""
    decoder = FakeDecoder(2, context=9000)
    engine = engine_of(decoder, rows=9)
    long = Request([3] * 8000, GenerationSettings(5), 9000)
    engine.add(long)
    engine.step()
    short, equal = Request([4] * 300, GenerationSettings(5), 9000), Request([5] * 8000, GenerationSettings(5), 9000)
    third = Request([6, 7], GenerationSettings(5), 9000)
    for each in (short, equal, third):
        engine.add(each)
    while not third.new_ids:
        engine.step()
    assert len(short.new_ids) > 1
    assert long.computed <= 4 * PREFILL_CHUNK
    while not equal.computed:
        engine.step()
    assert not long.prefilling
    drained(engine)
    for each in (long, short, equal, third):
        assert each.new_ids == alone(each.ids[: each.statistics.prompt_tokens], GenerationSettings(5), 9000)


def test_short_prompts_do_not_keep_a_long_one_from_being_read() -> None:
    decoder = FakeDecoder(2, context=9000)
    engine = engine_of(decoder, rows=9)
    long = Request([3] * 8000, GenerationSettings(5), 9000)
    engine.add(long)
    for count in range(8000):
        if not long.prefilling:
            break
        engine.add(Request([4 + count % 7, 5], GenerationSettings(1), 9000))
        engine.step()
    assert count < 3 * 8000 // PREFILL_CHUNK


def test_a_beginning_that_a_running_request_has_is_not_computed_again() -> None:
    decoder = FakeDecoder(2)
    engine = engine_of(decoder)
    common = [5, 6, 7, 8] * 10
    running, second = request([*common, 1]), request([*common, 2, 3])
    engine.add(running)
    while running.prefilling:
        engine.step()
    engine.add(second)
    drained(engine)
    assert second.statistics.reused_tokens == len(common)
    apart = engine_of(FakeDecoder(2), deterministic=True)
    for prompt in ([*common, 1], [*common, 2, 3]):
        asked = request(prompt)
        apart.add(asked)
        drained(apart)
        assert asked.statistics.reused_tokens == 0


def test_deterministic_passes_hold_one_row() -> None:
    decoder = FakeDecoder(2)
    engine = engine_of(decoder, deterministic=True)
    for i in range(3):
        engine.add(request([i] * 5))
    drained(engine)
    assert set(decoder.passes) == {1, 5}


def test_drafting_rests_while_requests_share_passes() -> None:
    """Alone the text repeats itself, and draft tokens are accepted."""
    both = [request([1, 2, 3, 4] * 5, GenerationSettings(60), draft=NGramDraft()) for _ in range(2)]
    engine = engine_of(FakeDecoder(2))
    for each in both:
        engine.add(each)
    drained(engine)
    lone = request([1, 2, 3, 4] * 5, GenerationSettings(60), draft=NGramDraft())
    engine.add(lone)
    drained(engine)
    assert lone.statistics.drafted_tokens > max(each.statistics.drafted_tokens for each in both)


class Faulty(FakeDecoder):
    """Decoder that fails in passes that hold the token 9 in their first row."""

    def forward(self, input_ids: np.ndarray, cache: Any, **settings: Any) -> np.ndarray:
        if 9 in input_ids[0]:
            raise MemoryError("no more")
        return super().forward(input_ids, cache, **settings)


def bad_watch(token: int) -> bool:
    raise UsageError("cannot be read")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: request([4, 9]), MemoryError),
        (lambda: request([4, 5], GenerationSettings(5, suppress_tokens=frozenset(range(12)))), UsageError),
        (lambda: request([4, 5], watch=bad_watch), UsageError),
    ],
)
def test_a_request_that_fails_hurts_no_other(make: Callable[[], Request], error: type[Exception]) -> None:
    healthy = GenerationSettings(20, suppress_tokens=frozenset({9}))
    engine = engine_of(Faulty(2))
    numbers = [engine.add(request([1, 2], healthy)), engine.add(make()), engine.add(request([3, 4], healthy))]
    events = drained(engine)
    assert [type(event.error) for event in events if event.error] == [error]
    assert [event.id for event in events if event.error] == [numbers[1]]
    assert tokens_of(events, numbers[0]) == alone([1, 2], healthy)
    assert tokens_of(events, numbers[2]) == alone([3, 4], healthy)
    assert engine.slots.taken == 0


def test_a_pass_that_fails_ends_its_requests_and_the_engine_goes_on() -> None:
    engine = engine_of(Faulty(2))
    numbers = [engine.add(request([i, 1], GenerationSettings(5, begin_suppress_tokens=frozenset({9})))) for i in (1, 2)]
    engine.add(request([3, 1], GenerationSettings(5, suppress_tokens=frozenset(range(9)) | {10, 11})))  # says 9 alone
    events = drained(engine)
    assert {event.id for event in events if event.finished or event.error} >= set(numbers)
    assert engine.slots.taken == 0
    again = engine.add(request([1, 2], GenerationSettings(3, suppress_tokens=frozenset({9}))))
    assert tokens_of(drained(engine), again)


def test_a_request_that_is_cancelled_frees_its_slot_for_one_that_waits() -> None:
    engine = engine_of(FakeDecoder(2), 1)
    first, second = engine.add(request([1, 2], GenerationSettings(200))), engine.add(request([3, 4]))
    third = engine.add(request([5, 6]))
    for _ in range(3):
        engine.step()
    assert engine.slots.taken == 1
    engine.cancel(first)
    engine.cancel(second)  # it waits
    engine.cancel(99)
    assert engine.slots.taken == 0
    events = drained(engine)
    assert {event.id for event in events} == {third}
    assert tokens_of(events, third) == alone([5, 6])


def test_who_is_patient_waits_behind_who_is_not() -> None:
    engine = engine_of(FakeDecoder(2), 1)
    numbers = [engine.add(request([i, 2], GenerationSettings(3)), patient=i < 3) for i in range(5)]
    assert ends(drained(engine)) == [numbers[i] for i in (3, 4, 0, 1, 2)]


def test_who_is_patient_has_a_turn_where_there_are_always_others() -> None:
    engine = engine_of(FakeDecoder(2), 1)
    patient = engine.add(request([1, 2]), patient=True)
    others = [engine.add(request([i % 12, 3], GenerationSettings(1))) for i in range(30)]
    order = ends(drained(engine))
    assert order == [*others[:8], patient, *others[8:]]


def test_what_does_not_fit_the_memory_waits_or_is_refused() -> None:
    decoder = FakeDecoder(2, context=5000)
    engine = engine_of(decoder, budget=2 * GROWTH_STEP, strict=True)
    with pytest.raises(UsageError, match=r"may come to 600 tokens, 0.572 MiB .* kv_memory allows 512, 0.488 MiB"):
        engine.add(Request([1] * 100, GenerationSettings(500), 5000))
    numbers = [engine.add(Request([i, 2], GenerationSettings(20), 5000)) for i in range(3)]
    most, events = 0, []
    while engine.busy:
        events += engine.step()
        most = max(most, engine.slots.taken)
    assert most == 2
    assert sorted(ends(events)) == numbers
    assert engine_of(decoder, budget=2 * GROWTH_STEP).add(Request([1] * 100, GenerationSettings(500), 5000)) == 0


def test_an_answer_ends_with_the_token_at_which_its_watch_says_so() -> None:
    whole = alone([1, 2], GenerationSettings(60))
    for count in (1, 5, 40):
        given_out: list[int] = []

        def watch(token: int, given_out: list[int] = given_out, count: int = count) -> bool:
            given_out.append(token)
            return len(given_out) == count

        asked = request([1, 2], GenerationSettings(60), draft=NGramDraft(), watch=watch)
        engine = engine_of(FakeDecoder(2))
        engine.add(asked)
        events = drained(engine)
        assert tokens_of(events, 0) == given_out == asked.new_ids == whole[:count]
        assert (asked.statistics.finish_reason, asked.statistics.new_tokens) == ("stop", count)


def test_threads_share_the_passes_that_each_of_them_makes() -> None:
    decoder = FakeDecoder(2)
    engine = engine_of(decoder, 4)
    prompts = [[i, j] for i in range(6) for j in range(4)]

    def answer(prompt: list[int]) -> list[int]:
        generation = engine.generate(request(prompt))
        if prompt[1] == 3:
            next(generation)
            generation.close()
            return []
        return list(generation)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, prompts))
    assert found == [[] if prompt[1] == 3 else alone(prompt) for prompt in prompts]
    assert not engine.busy
    assert engine.slots.taken == 0


def test_a_generation_that_is_closed_says_so_to_who_waits_for_it() -> None:
    engine = engine_of(FakeDecoder(2))
    generation = engine.generate(request([1, 2]))
    next(generation)
    engine.cancel(0)
    with pytest.raises(UsageError, match="the generation was closed"):
        list(generation)


def test_time_before_the_first_token_counts_the_wait_for_others() -> None:
    engine = engine_of(FakeDecoder(2), 1)
    first, second = request([1, 2], GenerationSettings(100)), request([3, 4])
    for each in (first, second):
        engine.add(each)
    drained(engine)
    statistics = second.statistics
    assert statistics.waiting_seconds > first.statistics.decode_seconds > 0
    assert statistics.time_to_first_token == statistics.waiting_seconds + statistics.prefill_seconds
