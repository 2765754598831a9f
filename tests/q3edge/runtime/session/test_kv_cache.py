"""Rows of a cache come and go, and none sees the contents of another, whichever rows share a pass."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.architecture.kv_cache import CacheBuffer
from q3edge.errors import UsageError
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.kv_cache import KVCache
from tests.helpers.runtime import write_artifact

ROOT = Path(__file__).resolve().parents[4]

KEYS = CacheBuffer("past.key", "present.key", (2, 0, 4), "float32", length_axis=1)
STATE = CacheBuffer("past.state", "present.state", (3, 5), "float32", length_axis=None)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return Decoder(write_artifact(tmp_path_factory.mktemp("decoder") / "artifact"), threads=1)


def tokens(seed: int, count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(2, 320, count)]


def alone(decoder: Decoder, ids: list[int]) -> np.ndarray:
    """Logits [V] after `ids` in a cache of their own."""
    logits: np.ndarray = decoder.forward(np.array([ids]), decoder.new_cache(len(ids)))[0, 0]
    return logits


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "chunk", "decode", "cut", "grow"]), st.integers(0, 7), st.integers(1, 9)
    ),
    min_size=4,
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(EVENTS)
def test_a_row_gives_what_it_gives_alone_whatever_the_others_do(
    decoder: Decoder, events: list[tuple[str, int, int]]
) -> None:
    cache, held = decoder.new_cache(32), {0: list[int]()}
    for step, (kind, which, count) in enumerate(events):
        row = sorted(held)[which % len(held)]
        if kind == "join" and len(held) < 4:
            row = cache.take()
            assert row not in held
            held[row] = []
        elif kind == "leave" and len(held) > 1:
            cache.give_back(row)
            del held[row]
        elif kind == "cut":
            del held[row][count:]
            cache.truncate(count, row)
        elif kind == "grow":
            cache.reserve(min(cache.capacity + 1, 512))
        elif kind == "chunk":
            new = tokens(step, count)
            cache.reserve(cache.length + count)
            found = decoder.forward(np.array([new]), cache, first_row=row)
            held[row] += new
            assert_close(found[0, 0], alone(decoder, held[row]))
        elif kind == "decode":  # the rows beside each other, one token each
            rows = [row]
            while rows[-1] + 1 in held:
                rows.append(rows[-1] + 1)
            new = tokens(step, len(rows))
            cache.reserve(cache.length + 1)
            found = decoder.forward(np.array(new)[:, None], cache, first_row=row)
            for i, token in zip(rows, new):
                held[i].append(token)
                assert_close(found[i - row, 0], alone(decoder, held[i]))
        assert [cache.lengths[i] for i in held] == [len(ids) for ids in held.values()]


def test_a_row_that_was_given_back_is_as_new(decoder: Decoder) -> None:
    cache, ids = decoder.new_cache(16, 2), np.array([tokens(1, 9)])
    decoder.forward(np.array([tokens(2, 12)]), cache, first_row=1)
    cache.give_back(1)
    assert (cache.lengths, cache.take()) == ([0, 0], 1)
    expected = decoder.forward(ids, decoder.new_cache(16), keep=0)
    np.testing.assert_array_equal(decoder.forward(ids, cache, keep=0, first_row=1), expected)


def test_the_first_free_row_is_taken_and_rows_double_where_there_is_none(decoder: Decoder) -> None:
    cache = decoder.new_cache(8)
    assert [cache.take() for _ in range(3)] == [1, 2, 3]
    cache.give_back(2)
    cache.give_back(0)
    assert [cache.take() for _ in range(3)] == [0, 2, 4]
    assert cache.batch_size == 8


@pytest.mark.parametrize(("first_row", "count"), [(0, 2), (1, 1), (2, 2), (-1, 1), (3, 1)])
def test_a_pass_over_a_row_that_is_not_taken_is_refused(decoder: Decoder, first_row: int, count: int) -> None:
    cache = decoder.new_cache(8, 3)
    cache.give_back(1)
    with pytest.raises(ValueError, match="not all of them are taken"):
        decoder.forward(np.zeros((count, 1), np.int64), cache, first_row=first_row)
    with pytest.raises(ValueError, match="not all of them are taken"):
        cache.give_back(1)


def test_several_rows_take_several_tokens_only_while_they_are_empty(decoder: Decoder) -> None:
    cache = decoder.new_cache(16, 3)
    decoder.forward(np.array([tokens(1, 4)]), cache, first_row=0)
    ids = np.array([tokens(2, 5), tokens(3, 5)])
    found = decoder.forward(ids, cache, first_row=1)  # row 0 takes no part
    for row in range(2):
        assert_close(found[row, 0], alone(decoder, ids[row].tolist()))
    with pytest.raises(ValueError, match="behind 5 tokens: give one row, or one token each"):
        decoder.forward(ids, cache)
    assert cache.lengths == [4, 5, 5]


class Bound:
    """IOBinding that records where the buffers are."""

    def __init__(self, places: dict[str, tuple[int, tuple[int, ...]]]) -> None:
        self.places = places

    def bind_input(self, name: str, _device: str, _id: int, _dtype: type, shape: tuple[int, ...], place: int) -> None:
        self.places[name] = place, shape

    bind_output = bind_input


class Session:
    """Session that computes nothing; `array` is the one that onnxruntime would read or write under a name."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}

    def io_binding(self) -> Bound:
        return Bound(self.places)

    def array(self, name: str) -> np.ndarray:
        place, shape = self.places[name]
        return np.ctypeslib.as_array(ctypes.cast(place, ctypes.POINTER(ctypes.c_float)), shape)


def hybrid() -> tuple[Any, KVCache]:
    """Cache with keys in one layer and a recurrent state in another; its first row and state are full of ones."""
    session: Any = Session()
    cache = KVCache(session, (KEYS, STATE), 6, 1, 512)
    cache.bound(0, 1)
    session.array("past.key")[:] = session.array("present.state")[:] = 1
    cache.lengths[0] = 4
    return session, cache


def test_past_and_present_are_one_buffer_of_the_rows_of_a_pass() -> None:
    session, cache = hybrid()
    cache.take()
    cache.take()
    cache.bound(1, 2)
    session.array("present.state")[1] = 7
    assert session.array("past.state").shape == (2, 3, 5)
    assert session.array("past.key").shape == (2, 2, 6, 4)
    cache.bound(0, 3)
    assert session.array("past.state").max(axis=(1, 2)).tolist() == [1, 0, 7]


def test_a_state_without_an_axis_of_tokens_moves_with_its_row_and_does_not_grow() -> None:
    session, cache = hybrid()
    cache.take()
    cache.reserve(100)
    cache.bound(0, 2)
    keys, states = session.array("past.key"), session.array("past.state")
    assert (keys.shape, states.shape) == ((2, 2, 256, 4), (2, 3, 5))
    assert (keys[0, :, :4].min(), keys[0, :, 4:].max(), keys[1].max()) == (1, 0, 0)
    assert (states[0].min(), states[1].max()) == (1, 0)


def test_a_state_is_emptied_with_its_row_and_cannot_be_cut() -> None:
    session, cache = hybrid()
    with pytest.raises(ValueError, match="row 0 holds a recurrent state: it cannot be cut to 2 tokens"):
        cache.truncate(2)
    assert cache.lengths == [4]
    cache.truncate(4)  # forgets nothing
    assert session.array("past.state").min() == 1
    cache.give_back(0)
    assert session.array("past.state").max() == 0


def test_a_capacity_beyond_the_context_is_refused() -> None:
    session: Any = Session()
    with pytest.raises(UsageError, match="513 tokens asked for, but the model's context is 512"):
        KVCache(session, (KEYS,), 513, 1, 512)


def test_a_row_is_copied_read_and_written_by_its_tokens() -> None:
    session: Any = Session()
    cache = KVCache(session, (KEYS,), 6, 3, 512)
    cache.bound(0, 3)
    session.array("past.key")[0] = np.arange(48).reshape(2, 6, 4)
    cache.lengths[0] = 5
    cache.copy(0, 2, 3)
    keys = session.array("past.key")
    np.testing.assert_array_equal(keys[2, :, :3], keys[0, :, :3])
    assert (keys[2, :, 3:].max(), cache.lengths) == (0, [5, 0, 3])
    (tokens_of_row,) = cache.read(0, 1, 4)
    np.testing.assert_array_equal(tokens_of_row, keys[0, :, 1:4].swapaxes(0, 1))
    cache.write(2, 2, cache.read(0, 1, 4))
    assert cache.lengths[2] == 5
    np.testing.assert_array_equal(keys[2, :, :5], keys[0][:, [0, 1, 1, 2, 3]])
    cache.write(2, 5, [np.ones((20, 2, 4), np.float32)])
    assert (cache.capacity, cache.lengths[2]) == (256, 25)


def test_a_state_goes_with_all_of_its_tokens_or_not_at_all() -> None:
    session, cache = hybrid()
    cache.take()
    with pytest.raises(ValueError, match="row 0 holds a recurrent state of 4 tokens, not 2"):
        cache.copy(0, 1, 2)
    with pytest.raises(ValueError, match="row 0 holds a recurrent state, which is not of single tokens"):
        cache.read(0, 0, 2)
    cache.copy(0, 1, 4)
    cache.bound(0, 2)
    assert session.array("past.state")[1].min() == 1


def test_what_is_released_of_a_row_leaves_its_beginning_and_the_other_rows() -> None:
    session: Any = Session()
    cache = KVCache(session, (CacheBuffer("past.key", "present.key", (2, 0, 64), "float32", 1),), 256, 2, 512)
    cache.bound(0, 2)
    keys = session.array("past.key")
    keys[:] = 1
    cache.release(1, 100)
    assert keys[0].min() == keys[1, :, :100].min() == 1
    cache.give_back(1)
    assert keys[0].min() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_row_takes_memory_for_its_tokens_and_gives_it_back() -> None:
    """In a process of its own, whose memory nothing else moves."""
    command = f"from {__name__} import {measure_rows.__name__} as measure; measure()"
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True)


def measure_rows() -> None:
    """Whatever the longest row needs: 64 MB for each row, of which a token takes some kilobytes."""
    session: Any = Session()
    cache = KVCache(session, (CacheBuffer("past.key", "present.key", (8, 0, 64), "float32", 1),), 2**15, 4, 2**15)
    start = resident()
    for row in range(4):
        cache.write(row, 0, [np.ones((3, 8, 64), np.float32)])
    assert resident() - start < 16 << 20
    cache.write(0, 0, [np.ones((2**14, 8, 64), np.float32)])
    cache._resize(5, 2**15)
    assert resident() - start < 48 << 20
    cache.truncate(3, 0)
    cache.release(0, 3)
    assert resident() - start < 16 << 20
    cache.write(1, 0, [np.ones((2**15, 8, 64), np.float32)])
    assert resident() - start > 48 << 20
    cache.give_back(1)
    assert resident() - start < 16 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
