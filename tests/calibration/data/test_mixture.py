"""Rows follow the shares to within one row, shortages are shared out, and long documents leave room for others."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from q3edge.areas import AREAS
from q3edge.calibration.data.documents import Document, seeded_rank
from q3edge.calibration.data.mixture import DEFAULT_SHARES, Mixture, apportion, mix, normalised_shares, plan_rows
from q3edge.errors import InputError, UsageError

SHARES = st.dictionaries(st.sampled_from(AREAS), st.floats(0.01, 1), min_size=1)
END = 0


def encode(document: Document) -> list[int]:
    return [ord(c) for c in document.text]


def mixed(documents: list[Document], samples: int = 16, seed: int = 0, **shares: float) -> Mixture:
    wanted = normalised_shares(shares or None)
    return mix(documents, encode, [END], wanted, samples=samples, seq_len=16, seed=seed)


def letters(area: str, count: int, length: int = 15, source: int = 0) -> list[Document]:
    """Documents of an area that differ, each `length` tokens and the separator."""
    return [Document(source, n, f"{area[0]}{n:05}".ljust(length, "."), area=area) for n in range(count)]


@given(SHARES, st.integers(1, 2000))
def test_rows_are_within_one_of_their_share(shares: dict[str, float], rows: int) -> None:
    split = apportion(shares, rows)
    assert sum(split.values()) == rows
    assert all(abs(split[d] - rows * shares[d] / sum(shares.values())) < 1 for d in shares)


@given(SHARES, st.integers(1, 300), st.dictionaries(st.sampled_from(AREAS), st.integers(0, 200)))
def test_a_plan_uses_what_there_is(shares: dict[str, float], rows: int, stock: dict[str, int]) -> None:
    plan = plan_rows(shares, rows, lambda area, n: min(n, stock.get(area, 0)))
    assert sum(plan.values()) == min(rows, sum(stock.get(area, 0) for area in shares))
    assert all(count <= stock.get(area, 0) for area, count in plan.items())
    # Of the areas that were not used up, none is more than rounding away from its share of what they got.
    rest = {area: shares[area] for area in shares if plan[area] < stock.get(area, 0)}
    got = sum(plan[area] for area in rest)
    for area, share in rest.items():
        assert abs(plan[area] - got * share / sum(rest.values())) <= len(shares)


def test_a_shortage_goes_to_the_others_in_proportion() -> None:
    stock = {"knowledge": 1000, "math": 1000, "code": 2}
    plan = plan_rows({"knowledge": 0.3, "math": 0.2, "code": 0.5}, 102, lambda area, n: min(n, stock[area]))
    assert plan == {"knowledge": 60, "math": 40, "code": 2}


@pytest.mark.parametrize("shares", [{"sports": 1.0}, {"math": -1.0}, {"math": 0.0}, {}, {"math": math.nan}])
def test_bad_shares(shares: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="share"):
        normalised_shares(shares)


def test_shares_are_normalised() -> None:
    assert normalised_shares(None) == pytest.approx(DEFAULT_SHARES)
    assert normalised_shares({"code": 3, "math": 1, "safety": 0}) == {"math": 0.25, "code": 0.75}


def test_tokens_have_the_shares_and_rows_are_whole_documents_here() -> None:
    documents = [document for area in AREAS for document in letters(area, 40)]
    found = mixed(documents, samples=40)
    assert found.token_ids.shape == found.owners.shape == (40, 16)
    areas = Counter(documents[owner].area for owner in found.owners[:, 0])
    assert areas == {area: round(40 * share) for area, share in DEFAULT_SHARES.items()}
    for ids, owners in zip(found.token_ids, found.owners):
        assert set(owners) == {owners[0]}
        assert ids.tolist() == [*encode(documents[owners[0]]), END]


def test_the_order_depends_on_the_seed_and_the_texts_only() -> None:
    documents = letters("knowledge", 60) + letters("math", 60, source=1)
    first, again = mixed(documents), mixed(documents[::-1])
    assert np.array_equal(first.token_ids, again.token_ids)
    assert not np.array_equal(first.token_ids, mixed(documents, seed=1).token_ids)
    mathematical = [documents[owner].area == "math" for owner in first.owners[:, 0]]
    assert sorted(mathematical) != mathematical  # areas are shuffled among each other
    assert seeded_rank(0, "a") != seeded_rank(1, "a") != seeded_rank(1, "b")


def test_one_long_document_leaves_room_for_others() -> None:
    book = [Document(9, 1, f"{n:04}" * 20, area="knowledge") for n in range(50)]  # 250 rows of 16 in passages
    program = [Document(8, 1, "x" * 4000, area="knowledge")]  # the same in one piece
    found = mixed([*book, *program, *letters("knowledge", 40)], samples=32, knowledge=1.0)
    sources = Counter(([9] * 50 + [8] + [0] * 40)[owner] for owner in found.owners.ravel())
    assert sources == {9: 32, 8: 32, 0: 32 * 16 - 64}


def test_long_documents_fill_what_nothing_else_can() -> None:
    found = mixed([Document(1, 1, "x" * 4000, area="knowledge"), *letters("knowledge", 2)], samples=32, knowledge=1.0)
    assert found.token_ids.shape == (32, 16)
    assert set(found.owners.ravel()) == {0, 1, 2}


def test_rests_of_areas_are_joined_only_where_rows_are_missing() -> None:
    documents = letters("knowledge", 3, 9) + letters("math", 3, 9)  # 30 tokens each: a row and 14 tokens
    found = mixed(documents, samples=3, knowledge=1.0, math=1.0)
    assert found.rows == {"knowledge": 1, "math": 1}
    assert found.token_ids.shape == (3, 16)
    assert sorted(Counter(found.owners.ravel()).values())[-4:] == [10] * 4
    assert mixed(documents, samples=2, knowledge=1.0, math=1.0).token_ids.shape == (2, 16)


def test_too_few_tokens_for_one_row() -> None:
    with pytest.raises(InputError, match=r"11 tokens after filtering; expected at least 16, one row"):
        mixed(letters("knowledge", 1, 10))
