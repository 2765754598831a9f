"""Chunks of a prompt, while others wait, take as long as they may: by measured passes, within bounds."""

from __future__ import annotations

import pytest

from q3edge.runtime.engine.chunk_size import ChunkSize
from q3edge.runtime.engine.slots import PREFILL_CHUNK


@pytest.mark.parametrize(
    ("step", "token", "expected"), [(0.1, 0.002, 96), (0.1, 0.01, 16), (0.01, 1.0, 4), (1.0, 1e-4, PREFILL_CHUNK)]
)
def test_a_chunk_takes_the_given_multiple_of_a_step(step: float, token: float, expected: int) -> None:
    sizes = ChunkSize(2.0)
    sizes.record_step(step)
    for _ in range(30):
        sizes.record_chunk(50, 49.9 * token)
    sizes.record_step(step)
    assert sizes.choose() == expected


def test_dearer_tokens_make_smaller_chunks_and_slower_steps_larger_ones() -> None:
    sizes = ChunkSize(2.0)
    assert sizes.choose() == 4  # nothing is measured
    sizes.record_step(0.1)
    sizes.record_chunk(100, 0.2)
    sizes.record_step(0.1)
    before = sizes.choose()
    sizes.record_chunk(100, 2.0)
    sizes.record_step(0.1)
    assert 4 <= sizes.choose() < before
    smaller = sizes.choose()
    sizes.record_step(10.0)
    assert sizes.choose() > smaller


def test_each_prompt_that_waits_may_take_as_much() -> None:
    sizes = ChunkSize(2.0)
    sizes.record_step(0.1)
    sizes.record_chunk(100, 1.0)
    sizes.record_step(0.1)
    assert [sizes.choose(prompts) for prompts in (1, 2, 5, 100)] == [16, 40, 96, PREFILL_CHUNK]


def test_chunks_go_on_until_the_time_between_two_steps_is_spent() -> None:
    sizes = ChunkSize(2.0)
    assert not sizes.has_room(3)  # nothing is measured
    sizes.record_step(0.1)
    sizes.record_chunk(10, 0.1)
    assert sizes.has_room(1)
    assert sizes.choose(1) == 8
    sizes.record_chunk(8, 0.08)
    assert not sizes.has_room(1)
    assert sizes.has_room(2)
    sizes.record_step(0.1)
    assert sizes.has_room(1)


def measured(step: float, token: float) -> ChunkSize:
    """Sizes after passes of so many seconds."""
    sizes = ChunkSize(2.0)
    sizes.record_step(step, rows=4)
    for _ in range(30):
        sizes.record_chunk(50, 50 * token)
    sizes.record_step(step, rows=4)
    return sizes


def test_the_chunk_that_takes_up_the_time_shares_a_pass() -> None:
    sizes = measured(0.1, 0.0099)  # 20 tokens have their time
    assert sizes.choose() == 16
    assert sizes.rides(16, 1, 4)
    assert sizes.rides(9, 1, 4)
    assert not sizes.rides(8, 1, 4)  # 8 more have theirs before the next tokens
    assert not sizes.rides(16, 2, 4)
    assert not sizes.rides(16, 1, 5)  # whose pass was not measured
    sizes.record_step(0.1, rows=5)
    assert sizes.rides(16, 1, 5)


def test_what_a_chunk_takes_in_a_shared_pass_is_what_that_takes_longer() -> None:
    sizes = measured(0.1, 0.0099)
    for _ in range(30):
        assert sizes.choose() in (16, 24, 32, 40)
        sizes.record_ride(40, 0.1 + 40 * 0.0049)
    assert sizes.choose() == 40


def test_passes_without_a_chunk_are_measured_again() -> None:
    sizes = measured(0.1, 0.0099)
    rides = 0
    while sizes.rides(16, 1, 4):
        sizes.record_ride(16, 0.1 + 16 * 0.0099)
        rides += 1
    assert rides == 8
    sizes.record_step(0.1, rows=4)
    assert sizes.rides(16, 1, 4)


def test_a_pass_of_other_rows_is_not_averaged_with_those_before() -> None:
    sizes = measured(0.1, 0.0099)
    sizes.record_step(0.4, rows=12)
    assert sizes.choose() == 80
