"""Duplicate texts: equal ones by hash, nearly equal ones by MinHash and exact comparison.

MinHash (Broder 1997) with banding only proposes pairs; the Jaccard similarity of their shingles decides. All hashes are
blake2b or use fixed constants, so every process finds the same.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.calibration.data.words import runs, words_of

SHINGLE_WORDS = 5
THRESHOLD = 0.8  # Jaccard similarity from which on two texts are near duplicates
_BANDS, _ROWS = 32, 4  # a pair at the threshold is missed once in 20 million
_PERMUTATIONS = _BANDS * _ROWS
_ESTIMATE_MARGIN = 0.2  # five standard deviations of the estimate
_CONSTANTS = np.frombuffer(hashlib.shake_128(b"q3edge minhash").digest(_PERMUTATIONS * 16), "<u8").reshape(2, -1, 1)
_FACTORS, _OFFSETS = _CONSTANTS[0] | np.uint64(1), _CONSTANTS[1]
_BLOCK = 1 << 12  # shingles at a time: 4 MiB of products


def find_duplicates(texts: Sequence[str]) -> dict[int, str]:
    """Find texts that duplicate an earlier kept one: index -> "duplicate" or "near-duplicate".

    Case, punctuation and white space make no difference.
    """
    found: dict[int, str] = {}
    seen: set[bytes] = set()
    index = _Index()
    for position, text in enumerate(texts):
        words = words_of(text) or [text]
        digest = _hash(" ".join(words), 16)
        if digest in seen:
            found[position] = "duplicate"
        elif index.add(shingles(words)):
            seen.add(digest)
        else:
            found[position] = "near-duplicate"
    return found


def shingles(words: Sequence[str]) -> NDArray[np.uint64]:
    """Sorted distinct hashes, uint64 [n], of all runs of SHINGLE_WORDS words; of the whole text where it is shorter."""
    distinct = set(runs(words, SHINGLE_WORDS))
    return np.sort(np.frombuffer(b"".join(_hash(run, 8) for run in distinct), "<u8"))


def jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Jaccard similarity: shared shingles over all shingles of two sorted arrays without repetitions."""
    shared = np.intersect1d(first, second, assume_unique=True).size
    return float(shared / (first.size + second.size - shared))


def signature(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """MinHash signature, uint64 [permutations]: the smallest shingle under each permutation.

    The share of equal entries of two signatures estimates the Jaccard similarity.
    """
    least = np.full(_PERMUTATIONS, np.iinfo(np.uint64).max)
    for start in range(0, hashes.size, _BLOCK):
        mixed = hashes[start : start + _BLOCK] * _FACTORS + _OFFSETS
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0x9E3779B97F4A7C15)  # without it, order would follow the high bits only
        np.minimum(least, mixed.min(axis=1), out=least)
    return least


class _Index:
    """Texts kept so far, found by bands of their signatures."""

    def __init__(self) -> None:
        self._shingles: list[NDArray[np.uint64]] = []
        self._signatures = np.empty((64, _PERMUTATIONS), np.uint64)
        self._buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, hashes: NDArray[np.uint64]) -> bool:
        """Keep a text unless a near duplicate is kept already; returns whether it is kept."""
        own = signature(hashes)
        keys = [(band, own[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]
        proposed = sorted({other for key in keys for other in self._buckets.get(key, ())})
        if proposed:
            alike = (self._signatures[proposed] == own).mean(axis=1)
            likely = [other for other, share in zip(proposed, alike) if share >= THRESHOLD - _ESTIMATE_MARGIN]
            if any(jaccard(hashes, self._shingles[other]) >= THRESHOLD for other in likely):
                return False
        self._keep(hashes, own, keys)
        return True

    def _keep(self, hashes: NDArray[np.uint64], own: NDArray[np.uint64], keys: list[tuple[int, bytes]]) -> None:
        position = len(self._shingles)
        if position == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[position] = own
        self._shingles.append(hashes)
        for key in keys:
            self._buckets[key].append(position)


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()
