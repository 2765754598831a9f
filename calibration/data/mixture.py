"""Rows of tokens from documents of several areas, in set shares: how many rows each area gets, cutting and order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.areas import AREA_WEIGHTS, AREAS
from q3edge.calibration.data.documents import Document, seeded_rank
from q3edge.errors import InputError, UsageError

DEFAULT_SHARES: Mapping[str, float] = {area: weight / 100 for area, weight in AREA_WEIGHTS.items()}
_LONG_DOCUMENT = 1 / 16  # share of all rows that one document may fill before the others were used


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Rows in their final order. `token_ids` and `owners` are int64 [rows, seq_len]; an owner is a document's index.

    `planned` and `rows` say how many rows each area should and could have; further rows are joined from remainders.
    """

    token_ids: NDArray[np.int64]
    owners: NDArray[np.int64]
    planned: Mapping[str, int]
    rows: Mapping[str, int]


def normalised_shares(shares: Mapping[str, float] | None) -> dict[str, float]:
    """Shares per area that sum to 1, the default for None. UsageError: unknown area, negative share, or all 0."""
    given = DEFAULT_SHARES if shares is None else shares
    if unknown := sorted(set(given) - set(AREAS)):
        raise UsageError(f"share of {', '.join(unknown)}: expected areas of {', '.join(AREAS)}")
    if not all(math.isfinite(share) and share >= 0 for share in given.values()) or not sum(given.values()) > 0:
        raise UsageError("shares: expected numbers from 0 up, at least one above 0")
    return {area: given[area] / sum(given.values()) for area in AREAS if given.get(area)}


def apportion(shares: Mapping[str, float], rows: int) -> dict[str, int]:
    """Split `rows` in proportion to `shares` by largest remainder: each within one row of its share."""
    total = sum(shares.values())
    exact = {area: rows * share / total for area, share in shares.items()}
    split = {area: math.floor(quota) for area, quota in exact.items()}
    by_remainder = sorted(exact, key=lambda area: split[area] - exact[area])
    for area in by_remainder[: rows - sum(split.values())]:
        split[area] += 1
    return split


def plan_rows(shares: Mapping[str, float], rows: int, available: Callable[[str, int], int]) -> dict[str, int]:
    """Plan the rows per area: what an area lacks goes to the others in proportion to their shares.

    `available(area, n)` gives how many of n wanted rows the area has.
    """
    fixed: dict[str, int] = {}
    left = dict(shares)
    while left:
        wanted = apportion(left, rows - sum(fixed.values()))
        short = {area: have for area, n in wanted.items() if (have := available(area, n)) < n}
        if not short:
            return fixed | wanted
        fixed |= short
        left = {area: share for area, share in left.items() if area not in short}
    return fixed


def mix(
    documents: Sequence[Document],
    encode: Callable[[Document], list[int]],
    separator: list[int],
    shares: Mapping[str, float],
    *,
    samples: int,
    seq_len: int,
    seed: int,
) -> Mixture:
    """Cut at most `samples` rows of tokens from the documents, fewer if there is too little text.

    `encode` gives a document's token ids. InputError: the text does not fill one row.
    """
    bound = max(1, round(samples * _LONG_DOCUMENT)) * seq_len
    streams = {area: _AreaTokens(documents, area, encode, separator, bound, seed) for area in shares}
    planned = apportion(shares, samples)
    rows = plan_rows(shares, samples, lambda area, n: streams[area].fill(n * seq_len) // seq_len)
    parts = [stream.cut(rows[area] * seq_len) for area, stream in streams.items()]
    missing = samples - sum(rows.values())
    if missing:  # every area is used up: whole rows of what is left of them
        rests = np.concatenate([stream.cut(None) for stream in streams.values()], axis=1)
        joined = min(missing, rests.shape[1] // seq_len)
        if joined + sum(rows.values()) == 0:
            found = f"{rests.shape[1]} tokens after filtering"
            raise InputError(f"calibration data: {found}; expected at least {seq_len}, one row")
        parts.append(rests[:, : joined * seq_len])
    pairs = np.concatenate(parts, axis=1).reshape(2, -1, seq_len)
    order = sorted(range(pairs.shape[1]), key=lambda row: seeded_rank(seed, pairs[0, row].tobytes()))
    return Mixture(pairs[0, order], pairs[1, order], planned, rows)


class _AreaTokens:
    """Tokens of one area's documents in seeded order, encoded only as far as they are needed."""

    def __init__(
        self,
        documents: Sequence[Document],
        area: str,
        encode: Callable[[Document], list[int]],
        separator: list[int],
        bound: int,
        seed: int,
    ) -> None:
        indices = [index for index, document in enumerate(documents) if document.area == area]
        self._order = sorted(indices, key=lambda index: seeded_rank(seed, documents[index].plain_text))
        self._documents, self._encode_one, self._separator, self._bound = documents, encode, separator, bound
        self._pieces = self._in_turn()
        self._ids: list[int] = []
        self._owners: list[int] = []

    def fill(self, tokens: int) -> int:
        """Encode until there are `tokens` tokens or nothing more; returns how many of them there are."""
        while len(self._ids) < tokens and (piece := next(self._pieces, None)):
            index, ids = piece
            self._ids += ids
            self._owners += [index] * len(ids)
        return min(tokens, len(self._ids))

    def cut(self, tokens: int | None) -> NDArray[np.int64]:
        """Remove the first `tokens` tokens (None: all); returns int64 [2, tokens], ids and owners."""
        taken = np.array([self._ids[:tokens], self._owners[:tokens]], np.int64).reshape(2, -1)
        del self._ids[: taken.shape[1]], self._owners[: taken.shape[1]]
        return taken

    def _in_turn(self) -> Iterator[tuple[int, list[int]]]:
        """Yield index and ids of each document; the part of a long one beyond the bound comes after all others."""
        used: Counter[tuple[int, int]] = Counter()
        later: list[tuple[int, list[int] | None]] = []
        for index in self._order:
            record = (self._documents[index].source, self._documents[index].number)
            allowed = self._bound - used[record]
            if allowed <= 0:
                later.append((index, None))
                continue
            ids = self._encode(index)
            used[record] += len(ids)
            if len(ids) > allowed:
                later.append((index, ids[allowed:]))
            yield index, ids[:allowed]
        for index, rest in later:
            yield index, self._encode(index) if rest is None else rest

    def _encode(self, index: int) -> list[int]:
        ids = self._encode_one(self._documents[index])
        return ids + self._separator if ids else []
