"""`KVCache`: keys and values, or any other state, of several sequences, one row each; rows come and go.

Allocates the memory, records which rows are taken, and binds one buffer as both past and present. It does not know the
tokens; `Decoder` runs passes over adjacent rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS, NUM_LOGITS_TO_KEEP, CacheBuffer
from q3edge.errors import UsageError
from q3edge.runtime.session.attention_graph import ROW_STARTS
from q3edge.runtime.session.heap import release_pages, take_pages_singly
from q3edge.runtime.session.idle_rows import QUERY_SEQLENS

GROWTH_STEP = 256  # tokens: a question and a short answer fit without growing


class KVCache:
    """Cache with rows for sequences of up to `capacity` tokens each, which may differ in length.

    `take` gives an empty row and `give_back` ends it. The memory is zero pages until tokens fill it, so that a large
    capacity costs address space, not RAM. `buffers` describes what a row holds: keys and values, or any other state.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        buffers: Iterable[CacheBuffer],
        capacity: int,
        batch_size: int,
        context: int,
        *,
        counts: bool = False,
        starts: bool = False,
    ) -> None:
        """Allocate rows 0 to `batch_size` - 1, at least one, all taken. UsageError: `capacity` exceeds `context`.

        counts: whether the graph asks how many tokens each row of a pass brings (`idle_rows`); starts: and where they
        lie (`attention_graph`).
        """
        check_context(capacity, context)
        self.capacity, self.context = capacity, context
        # A list, as the first numpy calls after a pass take tens of microseconds each (docs/lab-log.md).
        self.lengths = [0] * batch_size
        self._free: set[int] = set()
        self._session, self._asked = session, [QUERY_SEQLENS] * counts + [ROW_STARTS] * starts
        # Contents of the rows, [batch_size, ...]; new arrays once the cache has grown.
        self.arrays: dict[CacheBuffer, NDArray[np.generic]] = {
            buffer: _zeros(buffer, batch_size, capacity) for buffer in buffers
        }
        self._states = [buffer for buffer in self.arrays if buffer.length_axis is None]
        self._ones = np.ones((1, capacity), np.int64)
        self._bound: dict[tuple[int, int], BoundRows] = {}

    @property
    def batch_size(self) -> int:
        """Number of rows, taken or not."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Number of tokens in the longest sequence."""
        return max(self.lengths)

    def take(self) -> int:
        """Take the first free row, which is empty. If none is free, the rows are doubled, and the old ones copied."""
        if not self._free:
            rows = self.batch_size
            self._resize(2 * rows, self.capacity)
            self.lengths += [0] * rows
            self._free.update(range(rows, 2 * rows))
        row = min(self._free)
        self._free.remove(row)
        return row

    def give_back(self, row: int) -> None:
        """Free a taken row: its tokens are forgotten, and `take` may return it again. ValueError: it is not taken.

        Its memory goes back to the system, as far as that takes it.
        """
        self.check_taken(row, 1)
        self.truncate(0, row)
        self.release(row, 0)
        self._free.add(row)

    def truncate(self, length: int, row: int | None = None) -> None:
        """Forget every token after the first `length` of `row`, or of each row.

        ValueError: a row holds a recurrent state, which can be forgotten as a whole only.
        """
        rows = range(self.batch_size) if row is None else (row,)
        for i in rows:
            if self.lengths[i] > length:
                self._forget_states(i, length)
                self.lengths[i] = length

    def release(self, row: int, length: int) -> None:
        """Return the memory behind the first `length` tokens of a row to the system; what it held there is lost."""
        for buffer, array in self.arrays.items():
            if buffer.length_axis is not None:
                heads = array[row].reshape(math.prod(buffer.shape[: buffer.length_axis]), self.capacity, -1)
                for adjacent in heads[:, length:] if length else (heads,):
                    release_pages(adjacent)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens of each sequence and keep the contents; UsageError: beyond the context.

        The capacity at least doubles, so that over its whole life a cache copies each token about once, and is a
        multiple of GROWTH_STEP unless the context ends before. Only one buffer at a time exists twice.
        """
        if tokens <= self.capacity:
            return
        check_context(tokens, self.context)
        steps = -(-max(tokens, 2 * self.capacity) // GROWTH_STEP)
        capacity = min(steps * GROWTH_STEP, self.context)
        self._resize(self.batch_size, capacity)
        self._ones = np.ones((1, capacity), np.int64)
        self.capacity = capacity  # only now: if memory runs out before, the cache is still valid

    def check_taken(self, first_row: int, count: int, idle: Collection[int] = ()) -> None:
        """Raise ValueError unless each of `count` rows from `first_row` on exists, and is taken or among `idle`."""
        rows = range(first_row, first_row + count)
        free = self._free.difference(idle) if idle else self._free
        if first_row < 0 or rows.stop > self.batch_size or (free and not free.isdisjoint(rows)):
            raise ValueError(f"rows {rows.start} to {rows.stop - 1} of {self.batch_size}: not all of them are taken")

    def mask(self, lengths: Sequence[int], total: int) -> NDArray[np.int64]:
        """Attention mask int64 [B, total]: in each row, 1 at the first `lengths` positions and 0 after them."""
        if len(lengths) == 1 and lengths[0] == total:  # for each decoded token, so not computed
            return self._ones[:, :total]
        return (np.arange(total) < np.array(lengths)[:, None]).astype(np.int64)

    def bound(self, first_row: int, count: int) -> BoundRows:
        """Bind `count` rows from `first_row` on to the session for passes; valid until the cache grows."""
        rows = first_row, count
        if rows not in self._bound:
            arrays = ((buffer, array[first_row : first_row + count]) for buffer, array in self.arrays.items())
            self._bound[rows] = BoundRows(self._session, arrays, dict.fromkeys(self._asked, count))
        return self._bound[rows]

    def copy(self, source: int, row: int, length: int) -> None:
        """Give `row` the first `length` tokens of the row `source`, in place of its own.

        ValueError: they hold a recurrent state, which is that of all tokens of `source`, and these are fewer.
        """
        self._check_states(source, length)
        for buffer, array in self.arrays.items():
            _filled(buffer, array[row], length)[:] = _filled(buffer, array[source], length)
        self.lengths[row] = length

    def contents(self, row: int, length: int) -> dict[CacheBuffer, NDArray[np.generic]]:
        """Views of the first `length` tokens of a row, of the buffers' shapes; valid until the cache changes.

        ValueError: the row holds fewer, or as `copy`.
        """
        if length > self.lengths[row]:
            raise ValueError(f"row {row} holds {self.lengths[row]} tokens, not {length}")
        self._check_states(row, length)
        return {buffer: _filled(buffer, array[row], length) for buffer, array in self.arrays.items()}

    def fill(self, row: int, length: int, write: Callable[[Mapping[CacheBuffer, NDArray[np.generic]]], None]) -> None:
        """Give a row `length` tokens in place of its own, which `write` puts into views as `contents` has them.

        There is room for as many more without growth. UsageError: beyond the context. Whatever `write` raises leaves
        the row empty.
        """
        self.truncate(0, row)
        check_context(length, self.context)
        self.reserve(min(2 * length, self.context))
        self.lengths[row] = length
        try:
            write(self.contents(row, length))
        except BaseException:
            self.truncate(0, row)
            raise

    def read(self, row: int, start: int, end: int) -> tuple[NDArray[np.generic], ...]:
        """Copy what a row holds of the tokens `start` to `end`: for each buffer an array whose first axis is tokens.

        ValueError: the row holds a recurrent state, which is not of single tokens.
        """
        return tuple(tokens[start:end].copy() for tokens in self._by_token(row))

    def write(self, row: int, start: int, tokens: Sequence[NDArray[np.generic]]) -> None:
        """Put what `read` returned behind the first `start` tokens of a row, and make room for it."""
        end = start + len(tokens[0])
        self.truncate(start, row)
        self.reserve(end)
        for into, array in zip(self._by_token(row), tokens, strict=True):
            into[start:end] = array
        self.lengths[row] = end

    def _by_token(self, row: int) -> Iterator[NDArray[np.generic]]:
        """Views of a row's buffers with the axis of tokens first."""
        for buffer, array in self.arrays.items():
            if buffer.length_axis is None:
                raise ValueError(f"row {row} holds a recurrent state, which is not of single tokens")
            yield np.moveaxis(array[row], buffer.length_axis, 0)

    def _check_states(self, row: int, length: int) -> None:
        if self._states and length != self.lengths[row]:
            raise ValueError(f"row {row} holds a recurrent state of {self.lengths[row]} tokens, not {length}")

    def _forget_states(self, row: int, length: int) -> None:
        if self._states and length:
            raise ValueError(f"row {row} holds a recurrent state: it cannot be cut to {length} tokens, only emptied")
        for buffer in self._states:
            self.arrays[buffer][row] = 0

    def _resize(self, batch_size: int, capacity: int) -> None:
        """Replace the arrays by larger ones, with the contents copied."""
        self._bound.clear()
        for buffer, old in self.arrays.items():
            if buffer.allocated_shape(batch_size, capacity) == old.shape:
                continue
            new = _zeros(buffer, batch_size, capacity)
            for row, length in enumerate(self.lengths):
                _filled(buffer, new[row], length)[:] = _filled(buffer, old[row], length)
            self.arrays[buffer] = new


class BoundRows:
    """Adjacent rows of a cache, bound to a session once for many passes."""

    def __init__(
        self,
        session: ort.InferenceSession,
        arrays: Iterable[tuple[CacheBuffer, NDArray[np.generic]]],
        asked: Mapping[str, int],
    ) -> None:
        """Bind `arrays`, and so many numbers for each input that the graph has beside them."""
        self._session, self._binding = session, session.io_binding()
        self._numbers = {name: np.zeros(count, np.int32) for name, count in asked.items()}
        for name, numbers in self._numbers.items():
            _bind(self._binding.bind_input, name, numbers)
        self._keep = np.zeros(1, np.int64)  # bound once, written before each pass
        self._lent: NDArray[np.float32] | None = None  # the caller's array, if that is what is bound
        _bind(self._binding.bind_input, NUM_LOGITS_TO_KEEP, self._keep)
        for buffer, array in arrays:
            _bind(self._binding.bind_input, buffer.past, array)
            _bind(self._binding.bind_output, buffer.present, array)

    def run(
        self,
        input_ids: NDArray[np.int64],
        mask: NDArray[np.int64],
        counts: Sequence[int],
        starts: Sequence[int],
        keep: int,
        logits: NDArray[np.float32],
        *,
        lent: bool,
    ) -> None:
        """Run a pass over `input_ids` int64 [B, S] after the rows' tokens; fills `logits` float32 [B, keep, V].

        Or over [1, T] of all rows, if the graph asks where each begins. mask: int64 [B, tokens with the new ones], from
        `KVCache.mask`. counts: new tokens of each row; starts: where they begin. lent: the caller will pass the same
        array for the logits again, so it stays bound.
        """
        self._binding.bind_cpu_input(INPUT_IDS, np.ascontiguousarray(input_ids, np.int64))
        self._binding.bind_cpu_input(ATTENTION_MASK, mask)
        self._keep[0] = keep
        for name, numbers in self._numbers.items():
            numbers[:] = starts if name == ROW_STARTS else counts
        if logits is not self._lent:
            _bind(self._binding.bind_output, LOGITS, logits)
            self._lent = logits if lent else None
        self._session.run_with_iobinding(self._binding)


def check_context(tokens: int, context: int) -> None:
    """Raise UsageError if the model's context is shorter than `tokens`."""
    if tokens > context:
        raise UsageError(f"{tokens} tokens asked for, but the model's context is {context}; ask for fewer")


def _filled(buffer: CacheBuffer, row: NDArray[np.generic], length: int) -> NDArray[np.generic]:
    """View of what a row's buffer holds of its first `length` tokens; of a state, all of it."""
    return row if buffer.length_axis is None else row[(slice(None),) * buffer.length_axis + (slice(length),)]


def _zeros(buffer: CacheBuffer, batch_size: int, capacity: int) -> NDArray[np.generic]:
    """Allocate a buffer. The rows of a short text beside that of a long one take memory for its tokens alone."""
    array: NDArray[np.generic] = np.zeros(buffer.allocated_shape(batch_size, capacity), buffer.dtype)
    if batch_size > 1:
        take_pages_singly(array)
    return array


def _bind(bind: object, name: str, array: NDArray[np.generic]) -> None:
    """Lend `array`'s memory to onnxruntime; the caller keeps it alive for as long as the binding is used."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)  # type: ignore[operator]
