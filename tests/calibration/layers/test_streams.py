"""Sums over rows: blocks of fixed size, added in order, the same wherever a block is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from q3edge.calibration.layers.streams import Tokens
from q3edge.calibration.rounding.moments import Moments
from q3edge.cluster.place import Rows, working_at


class BlockByBlock:
    """A place that runs every block, and every item, by itself, the last ones first."""

    elsewhere = True

    def run(self, work: Callable[[Iterable[Any]], Iterator[Any]], items: Iterable[Any]) -> Iterator[Any]:
        found = [next(work([item])) for item in reversed([*items])]
        return iter(found[::-1])

    def run_rows(self, work: Callable[[Sequence[Rows]], Iterator[Any]], blocks: Sequence[Rows]) -> Iterator[Any]:
        found = [next(work([block])) for block in reversed(blocks)]
        return iter(found[::-1])


@pytest.mark.parametrize(
    ("sequences", "length", "held_out"),
    [(128, 512, 16), (40, 32, 5), (2, 2048, 1), (9, 1024, 1), (33, 700, 4), (6, 64, 0)],
)
def test_blocks_hold_every_part_once_in_order_and_held_out_ones_apart(
    sequences: int, length: int, held_out: int
) -> None:
    tokens = Tokens(sequences, length, held_out, False)
    blocks = tokens.blocks
    assert [part for block in blocks for part in block] == tokens.parts
    assert all(blocks)
    assert len(blocks) <= 8
    assert {part.start for part in tokens.parts if tokens.is_held_out(part)} == (
        {part.start for part in blocks[-1]} if held_out else set()
    )


def test_blocks_of_the_default_text_are_of_one_size() -> None:
    assert {sum(part.stop - part.start for part in block) for block in Tokens(128, 512, 16, False).blocks} == {16}


def moments_of(tokens: Tokens, values: torch.Tensor) -> Moments:
    """Moments of values [sequences, length, K]."""
    return tokens.sum(lambda part: values[part], partial(Moments.empty, values.shape[-1], keeps_samples=True))


def test_a_sum_is_the_same_wherever_its_blocks_are_computed() -> None:
    tokens = Tokens(90, 64, 11, False)
    values = torch.randn(90, 64, 24, generator=torch.Generator().manual_seed(0))
    here = moments_of(tokens, values)
    with working_at(BlockByBlock()):
        elsewhere = moments_of(tokens, values)
    for first, second in ((here.hessian, elsewhere.hessian), (here.held_out, elsewhere.held_out)):
        assert torch.equal(first, second)
    assert torch.equal(torch.cat(here.sampled), torch.cat(elsewhere.sampled))
    assert (here.tokens, here.held_out_tokens) == (79 * 64, 11 * 64) == (elsewhere.tokens, elsewhere.held_out_tokens)


def test_a_sum_is_that_of_all_tokens() -> None:
    tokens = Tokens(90, 64, 11, False)
    values = torch.randn(90, 64, 24, generator=torch.Generator().manual_seed(1))
    found = moments_of(tokens, values)
    for total, rows in ((found.hessian, values[:79]), (found.held_out, values[79:])):
        flat = rows.flatten(0, 1).double()
        torch.testing.assert_close(total.double(), flat.T @ flat, rtol=1e-5, atol=1e-2)


def test_progress_counts_every_sequence() -> None:
    tokens, moves, seen = Tokens(90, 64, 11, False), list[int](), list[slice]()
    tokens.run(seen.append, moves.append)
    assert sum(moves) == 90
    assert len(seen) == len(tokens.parts)
