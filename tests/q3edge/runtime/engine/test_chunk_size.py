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
