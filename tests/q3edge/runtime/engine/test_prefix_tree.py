"""A radix tree of token ids against a plain list of texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.engine.prefix_tree import PrefixTree, State, common_length

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=12)


def naive(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def state_of(ids: list[int]) -> Callable[[int, int], State]:
    """The state of a token is all ids up to it, in two buffers of different shapes."""

    def read(start: int, end: int) -> State:
        padded = np.full((end - start, 20), -1, np.int8)
        for row, length in enumerate(range(start + 1, end + 1)):
            padded[row, :length] = ids[:length]
        return padded, padded.sum(axis=1, dtype=np.float32)

    return read


def held(tree: PrefixTree, ids: list[int]) -> None:
    """What the tree has for `ids` is the state of just these."""
    pieces, (padded, sums) = tree.states(ids), state_of(ids)(0, len(ids))
    known = tree.longest(ids)
    assert sum(len(piece[0]) for piece in pieces) == known
    if pieces:
        np.testing.assert_array_equal(np.concatenate([piece[0] for piece in pieces]), padded[:known])
        np.testing.assert_array_equal(np.concatenate([piece[1] for piece in pieces]), sums[:known])


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_common_length_is_that_of_a_plain_loop(one: list[int], other: list[int]) -> None:
    assert common_length(one, other) == naive(one, other)
    assert common_length(one, one + other) == len(one)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_without_a_limit_the_longest_beginning_of_any_text_is_found(
    texts: list[list[int]], asked: list[list[int]]
) -> None:
    tree = PrefixTree(10_000)
    for text in texts:
        tree.insert(text, state_of(text))
        assert tree.longest(text) == len(text)
    assert tree.tokens == len({tuple(text[: i + 1]) for text in texts for i in range(len(text))})
    for ids in [*asked, *texts]:
        assert tree.longest(ids) == max(naive(text, ids) for text in texts)
        held(tree, ids)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(0, 40))
def test_within_a_limit_the_last_text_is_held_and_nothing_is_wrong(texts: list[list[int]], limit: int) -> None:
    tree = PrefixTree(limit)
    for number, text in enumerate(texts, 1):
        tree.insert(text, state_of(text))
        assert tree.tokens <= limit
        assert tree.longest(text) == min(len(text), limit)
        for ids in texts[:number]:
            assert tree.longest(ids) <= max(naive(other, ids) for other in texts[:number])
            held(tree, ids)


def test_the_end_that_was_not_used_for_the_longest_time_makes_way() -> None:
    tree = PrefixTree(12)
    for text in ([1, 1, 1, 2, 2, 2], [1, 1, 1, 3, 3, 3], [4, 4, 4]):
        tree.insert(text, state_of(text))
    tree.states([1, 1, 1, 2, 2, 2])
    tree.insert([5], state_of([5]))
    lengths = [tree.longest(text) for text in ([1, 1, 1, 2, 2, 2], [1, 1, 1, 3, 3, 3], [4, 4, 4], [5])]
    assert lengths == [6, 3, 3, 1]


def test_what_is_forgotten_takes_no_memory() -> None:
    tree = PrefixTree(100)
    tree.insert([1, 2, 3, 4], state_of([1, 2, 3, 4]))
    tree.insert([1, 2, 5], state_of([1, 2, 5]))
    first = tree.states([1, 2])[0][0]
    assert first.base is None or first.base.shape[0] == 2  # not a view of all four


@pytest.mark.parametrize("tokens", [-5, 0])
def test_shrinking_to_nothing_leaves_nothing(tokens: int) -> None:
    tree = PrefixTree(100)
    tree.insert([1, 2, 3], state_of([1, 2, 3]))
    tree.shrink(tokens)
    assert (tree.tokens, tree.longest([1, 2, 3])) == (0, 0)
