"""Calls of the attention kernels: random ones, what they should give in float64, and memory that is watched."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.kernels.library import Library

Array = NDArray[Any]
FEW_TOKENS = 16  # up to here a row reads its new tokens as an int8 cache holds them


@dataclass(frozen=True)
class Attention:
    """Inputs of a call, as native/attention.h has them; scales None: the cache is float32."""

    query: Array
    key: Array
    value: Array
    keys: Array
    values: Array
    seqlens: Array
    counts: Array
    starts: Array | None
    cos: Array
    sin: Array
    key_scale: Array | None
    value_scale: Array | None
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of AttentionShape."""
        batch, kv_heads, capacity, size = self.keys.shape
        rows, tokens, _ = self.query.shape
        rotary = (size, capacity, len(self.cos), self.keys.dtype == np.int8)
        return (batch, tokens, rows * tokens, self.heads, kv_heads, *map(int, rotary))

    def lengths(self, row: int) -> tuple[int, int]:
        """Tokens of a row before and after the pass."""
        end = int(self.seqlens[row]) + 1
        return end - int(self.counts[row]), end

    def copied(self) -> Attention:
        """The same with a cache of its own."""
        return replace(self, keys=self.keys.copy(), values=self.values.copy())

    def row(self, number: int) -> Attention:
        """One row alone, without its padding."""
        rows, tokens = slice(number, number + 1), slice(0, int(self.counts[number]))
        new: dict[str, Any] = {
            name: np.ascontiguousarray(getattr(self, name)[rows, tokens]) for name in ("query", "key", "value")
        }
        kept: dict[str, Any] = {
            name: getattr(self, name)[rows].copy() for name in ("keys", "values", "seqlens", "counts")
        }
        return replace(self, **new, **kept)


def attention(
    rng: np.random.Generator,
    *,
    lengths: Sequence[int],
    counts: Sequence[int],
    tokens: int,
    capacity: int,
    heads: int,
    kv_heads: int,
    size: int,
    int8: bool,
) -> Attention:
    """Make a random call: row b has lengths[b] tokens with its counts[b] new ones; a cache holds NaN behind them."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    batch, cache = len(lengths), (len(lengths), kv_heads, capacity, size)
    angles = np.arange(capacity + 1)[:, None] * 10000.0 ** (-np.arange(size // 2) / (size // 2))
    past = [length - count if count else 0 for length, count in zip(lengths, counts, strict=True)]
    scales: list[Array | None] = [None, None]
    if int8:
        held = [rng.integers(-128, 128, cache).astype(np.int8) for _ in range(2)]
        scales = [rng.uniform(0.01, 0.03, (kv_heads, size)).astype(np.float32) for _ in range(2)]
    else:
        held = [
            np.where(np.arange(capacity)[:, None] < np.array(past)[:, None, None, None], normal(*cache), np.nan).astype(
                np.float32
            )
            for _ in range(2)
        ]
    return Attention(
        query=2 * normal(batch, tokens, heads * size),
        key=normal(batch, tokens, kv_heads * size),
        value=normal(batch, tokens, kv_heads * size),
        keys=held[0],
        values=held[1],
        seqlens=np.array(lengths, np.int32) - 1,
        counts=np.array(counts, np.int32),
        starts=None,
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
        key_scale=scales[0],
        value_scale=scales[1],
        heads=heads,
    )


def attend(
    library: Library, instruction_set: str, call: Attention, threads: int = 1, out: Array | None = None
) -> NDArray[np.float32]:
    """Run a call, which writes into its cache; returns the context. ValueError: what the kernel says is wrong."""
    context = np.full(call.query.shape, np.nan, np.float32) if out is None else out
    arrays = [getattr(call, field.name) for field in fields(call)[:-1]]
    problem = library.attend(instruction_set, call.shape, [*arrays, context], threads)
    if problem is not None:
        raise ValueError(problem)
    return context


def rotated(x: Array, call: Attention, start: int, end: int) -> NDArray[np.float64]:
    """Rotate tokens [tokens, heads, D] of positions `start` to `end`, as Qwen3 does."""
    half = x.shape[-1] // 2
    a, b = x[..., :half].astype(np.float64), x[..., half:].astype(np.float64)
    cos, sin = (table[start:end, None].astype(np.float64) for table in (call.cos, call.sin))
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


@dataclass(frozen=True)
class Expected:
    """What a row's new tokens should give, float64, and how far float32 arithmetic may lie from it."""

    context: NDArray[np.float64]  # [tokens, heads * D]
    tolerance: float
    keys: NDArray[np.float64]  # [tokens, kv_heads, D], rotated, not rounded
    values: NDArray[np.float64]


def expected(call: Attention, row: int, stored: tuple[Array, Array]) -> Expected:
    """Compute a row in float64; `stored`: the cache after the call, whose codes of new tokens are taken as they are."""
    start, end = call.lengths(row)
    count, (_, kv_heads, _, size) = end - start, call.keys.shape
    group, int8 = call.heads // kv_heads, call.keys.dtype == np.int8
    query = rotated(call.query[row, :count].reshape(count, call.heads, size), call, start, end)
    new = (
        rotated(call.key[row, :count].reshape(count, kv_heads, size), call, start, end),
        call.value[row, :count].reshape(count, kv_heads, size).astype(np.float64),
    )
    seen = []
    for cache, scale, fresh in zip(stored, (call.key_scale, call.value_scale), new, strict=True):
        held = cache[row, :, :end].astype(np.float64).transpose(1, 0, 2)
        if scale is not None:
            held *= scale.astype(np.float64)
        if not int8 or count > FEW_TOKENS:
            held[start:] = fresh
        seen.append(held)
    context = np.zeros((count, call.heads, size))
    largest = 0.0
    for head in range(call.heads):
        keys, values = (array[:, head // group] for array in seen)
        scores = query[:, head] @ keys.T / np.sqrt(size)
        scores[np.arange(end) > start + np.arange(count)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        context[:, head] = weights / weights.sum(1, keepdims=True) @ values
        largest = max(largest, (np.abs(query[:, head]) @ np.abs(keys).T).max() / np.sqrt(size))
    # Products of `size` terms err by size + 8 roundings of the sum of magnitudes, weights by twice the scores' errors,
    # sums of `end` terms by as many roundings.
    roundings = 2 * (size + 8) * largest + 2 * end + 16
    tolerance = float(roundings * 2.0**-24 * np.abs(seen[1]).max())
    return Expected(context.reshape(count, -1), tolerance, *new)


class Watched:
    """Copies of arrays, each before a page that cannot be read and behind bytes that must stay."""

    _PAGE, _BEFORE = mmap.PAGESIZE, 0xA5

    def __init__(self) -> None:
        self._maps: list[tuple[mmap.mmap, int]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)

    def copy(self, array: Array) -> Array:
        """Copy an array to the end of pages of its own."""
        pages = -(-array.nbytes // self._PAGE) * self._PAGE + self._PAGE
        memory = mmap.mmap(-1, pages + self._PAGE)
        whole = np.frombuffer(memory, np.uint8)
        if self._libc.mprotect(ctypes.c_void_p(whole.ctypes.data + pages), ctypes.c_size_t(self._PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        start = pages - array.nbytes
        whole[:start] = self._BEFORE
        self._maps.append((memory, start))
        found = whole[start:pages].view(array.dtype).reshape(array.shape)
        found[...] = array
        return found

    def call(self, call: Attention) -> Attention:
        """Copy all arrays of a call."""
        arrays: dict[str, Any] = {field.name: getattr(call, field.name) for field in fields(call)[:-1]}
        copies: dict[str, Any] = {name: self.copy(array) for name, array in arrays.items() if array is not None}
        return replace(call, **copies)

    def untouched(self) -> bool:
        """Tell whether nothing was written before the arrays."""
        return all(bool((np.frombuffer(memory, np.uint8, start) == self._BEFORE).all()) for memory, start in self._maps)
