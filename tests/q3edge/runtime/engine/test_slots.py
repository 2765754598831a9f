"""Slots: what texts have in common is found wherever it lies, nobody's tokens change, and the budget holds."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.engine.slots import Slot, Slots
from q3edge.runtime.session.kv_cache import GROWTH_STEP
from tests.helpers.runtime import FakeDecoder


def slots_of(decoder: Any, rows: int = 4, **settings: Any) -> Slots:
    return Slots(decoder, rows, **settings)


def naive(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def check(decoder: FakeDecoder, slots: Slots) -> None:
    """Each slot has a row of its own, which holds its tokens; all other rows are free."""
    cache = decoder.caches[0]
    for slot in slots._slots:
        assert cache.rows[slot.row][: len(slot.ids)] == slot.ids
    assert sorted(slot.row for slot in slots._slots) == [i for i in range(len(cache.rows)) if i not in cache.free]


@settings(max_examples=200, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.integers(1, 5),
    st.integers(0, 5),
    st.sampled_from([0, 100, 10_000]),
    st.sampled_from([None, 700, 1500]),
)
def test_a_text_finds_the_longest_beginning_that_is_held(
    random: Random, rows: int, kept: int, stored: int, budget: int | None
) -> None:
    decoder = FakeDecoder(1)
    slots = slots_of(decoder, rows, kept=kept, stored=stored, budget=budget)
    ended: list[list[int]] = []
    taken: list[Slot] = []
    beginnings = [[random.randrange(3) for _ in range(random.randrange(1, 60))] for _ in range(3)]
    for _ in range(40):
        if random.random() < 0.55:
            ids = random.choice(beginnings)[: random.randrange(1, 60)] + [random.randrange(12) for _ in range(9)]
            before = {slot: list(slot.ids) for slot in slots._slots}
            at_most = random.randrange(len(ids) + 1)
            running = {slot: list(slot.ids) for slot in taken}
            slot = slots.take(ids, at_most, len(ids) + random.randrange(300))
            if slot is None:
                assert len(taken) == rows or budget is not None
                assert taken
                continue
            known = max((naive(held, ids[:at_most]) for held in before.values()), default=0)
            ever = max((naive(held, ids[:at_most]) for held in [*before.values(), *ended]), default=0)
            assert known <= len(slot.ids) <= (ever if stored else known)
            assert slot.ids == ids[: len(slot.ids)]
            assert len(slot.ids) <= at_most
            assert {slot: slot.ids for slot in taken} == running
            slots.read(slot, ids[len(slot.ids) :])
            taken.append(slot)
        elif taken:
            slot = taken.pop(random.randrange(len(taken)))
            slots.give_back(slot)
            ended.append(list(slot.ids))
        check(decoder, slots)
        idle = [slot for slot in slots._slots if not slot.taken]
        assert slots.taken == len(taken)
        assert len(slots._slots) <= rows
        assert len(idle) <= max(kept, 0)
        if budget is not None and taken:
            most = max(slot.held for slot in taken)
            held = sum(slot.held for slot in slots._slots) + slots._stored.tokens
            assert held <= max(budget, most if len(taken) == 1 else 0)
        assert slots._stored.tokens <= stored


def test_the_next_turn_of_a_conversation_takes_the_row_of_the_last() -> None:
    slots = slots_of(FakeDecoder(1), kept=4)
    first = slots.take([1, 2, 3, 4], 2, 300)
    assert first is not None
    slots.read(first, [1, 2, 3, 4, 5])
    slots.give_back(first)
    assert slots.take([1, 2, 3, 4, 5, 6], 4, 300) is first
    assert first.ids == [1, 2, 3, 4]


def test_another_conversation_with_the_same_beginning_leaves_the_first_alone() -> None:
    slots = slots_of(FakeDecoder(1), kept=4)
    first = slots.take([1] * 20, 0)
    assert first is not None
    slots.read(first, [1] * 5 + [2] * 15)
    slots.give_back(first)
    second = slots.take([1] * 5 + [3] * 15, 18)
    assert second is not None
    assert (second.ids, first.ids) == ([1] * 5, [1] * 5 + [2] * 15)
    assert second.row != first.row


def test_one_text_after_another_needs_one_row() -> None:
    decoder = FakeDecoder(1)
    slots = slots_of(decoder)
    for token in range(10):
        slot = slots.take([token] * 9, 7)
        assert slot is not None
        slots.read(slot, [token] * 9)
        slots.give_back(slot)
    assert len(decoder.caches[0].rows) == 1


@pytest.mark.parametrize(("stored", "known"), [(0, 2), (45, 12)])
def test_texts_that_leave_their_row_are_found_again_if_they_are_stored(stored: int, known: int) -> None:
    decoder = FakeDecoder(1)
    slots = slots_of(decoder, 1, stored=stored)
    for token in (1, 2, 3, 4):
        slot = slots.take([9, 9, *[token] * 10], 10)
        assert slot is not None
        slots.read(slot, [9, 9, *[token] * 10][len(slot.ids) :])
        slots.give_back(slot)
        check(decoder, slots)
    for token in (2, 3, 1):
        slot = slots.take([9, 9, *[token] * 10, 5], 12)
        assert slot is not None
        assert slot.ids == [9, 9, *[token] * 10][:known]
        check(decoder, slots)
        slots.give_back(slot)


def test_the_text_that_was_not_used_for_the_longest_time_makes_way() -> None:
    slots = slots_of(FakeDecoder(1), 3, kept=3)
    for token in (1, 2, 3, 1):
        slot = slots.take([token] * 9, 9)
        assert slot is not None
        slots.read(slot, [token] * (9 - len(slot.ids)) + [token])
        slots.give_back(slot)
    assert slots.take([4] * 9, 9) is not None
    assert sorted(slot.ids[0] for slot in slots._slots if slot.ids) == [1, 3]


def test_what_does_not_fit_the_budget_waits_but_a_text_alone_does_not() -> None:
    slots = slots_of(FakeDecoder(1, context=5000), budget=3 * GROWTH_STEP)
    large = slots.take([1], 0, 4 * GROWTH_STEP)
    assert large is not None
    assert slots.take([2], 0, 1) is None
    slots.give_back(large)
    assert [slots.take([2], 0, GROWTH_STEP) is None for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("idle_rows", "any_rows", "expected"), [(True, False, [2, 1]), (False, False, [1, 1, 1]), (True, True, [3])]
)
def test_slots_near_each_other_share_a_pass(idle_rows: bool, any_rows: bool, expected: list[int]) -> None:
    decoder = FakeDecoder(1)
    decoder.idle_rows, decoder.any_rows = idle_rows, any_rows
    slots = slots_of(decoder, 9)
    taken = [slots.take([i], 0) for i in range(9)]
    for i, slot in enumerate(taken):
        assert slot is not None
        slots.read(slot, [i, i])
    decoder.passes.clear()
    chosen = {slot: 3 for i in (0, 2, 8) if (slot := taken[i]) is not None}
    found = {slot: logits.copy() for part in slots.step(chosen) for slot, logits in part.items()}
    assert decoder.passes == expected
    for slot, logits in found.items():
        assert (logits == decoder.logits[slot.ids[-2], 3]).all()
        assert slot.ids[-1] == 3
    check(decoder, slots)


def test_what_was_released_does_not_count_as_held_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = FakeDecoder(1)
    slots = slots_of(decoder)
    text = [i % 12 for i in range(GROWTH_STEP + 40)]
    first = slots.take(text, 0)
    assert first is not None
    slots.read(first, text)
    slots.give_back(first)

    def interrupt(row: int, length: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder.caches[0], "release", interrupt)
    with pytest.raises(KeyboardInterrupt):
        slots.take(text[:20], 18)
    assert len(first.ids) == 18


def test_a_text_that_there_is_no_memory_to_store_loses_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = FakeDecoder(1)
    slots = slots_of(decoder, 2, kept=1, stored=1000)
    taken = []
    for ids in ([1, 2, 3], [4, 5, 6]):
        slot = slots.take(ids, 0)
        assert slot is not None
        slots.read(slot, ids)
        taken.append(slot)
    slots.give_back(taken[0])

    def read(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoder.caches[0], "read", read)
    with pytest.raises(MemoryError):
        slots.give_back(taken[1])
    check(decoder, slots)
    assert slots.left == 2
