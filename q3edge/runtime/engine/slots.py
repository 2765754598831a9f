"""`Slots`: rows of a KV cache with the token ids that they hold; texts with the same beginning share its computation.

A slot is taken for a text, which finds the part of its beginning that any slot holds. Token ids and cache agree at all
times, after an error or an abandoned pass too: what the cache has beyond a slot's ids counts as forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.kv_cache import CacheBuffer
from q3edge.errors import UsageError
from q3edge.runtime.engine.prefix_tree import PrefixTree, common_length
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.kv_cache import GROWTH_STEP

PREFILL_CHUNK = 256  # tokens at once: fills the matrix kernels; 512 are no faster and take 35 MB more (docs/lab-log.md)
Contents = Mapping[CacheBuffer, NDArray[np.generic]]
# Idle rows that a pass computes along with those on both sides. One more pass costs as much as four to six more rows.
_WIDEST_GAP = 3


@dataclass(slots=True, eq=False)
class Slot:
    """Row of the cache; `ids`: tokens whose keys and values it holds; `reserved`: how many they may become."""

    row: int
    ids: list[int] = field(default_factory=list)
    reserved: int = 0
    taken: bool = True

    @property
    def held(self) -> int:
        """Tokens that count towards the budget: those reserved, while it is taken; in whole steps of growth."""
        tokens = max(self.reserved, len(self.ids)) if self.taken else len(self.ids)
        return -(-tokens // GROWTH_STEP) * GROWTH_STEP


class Slots:
    """Slots of one decoder, made as they are needed: at most `rows`, of which `kept` may hold texts that have ended.

    Of more texts that have ended, `stored` tokens are kept beside the rows.
    """

    def __init__(
        self,
        decoder: Decoder,
        rows: int = 1,
        *,
        kept: int = 1,
        stored: int = 0,
        budget: int | None = None,
        capacity: int = GROWTH_STEP,
    ) -> None:
        """Start without slots. `budget`: tokens of everything together, however few a row needs; None: no limit.

        capacity: tokens that each row has room for at first; growing, by doubling, copies what all rows hold.
        """
        self.context = decoder.config.max_position_embeddings
        self.budget = budget
        self._decoder, self._rows, self._kept = decoder, rows, kept
        self._cache = decoder.new_cache(min(capacity, self.context))
        self._cache.give_back(0)
        self._stored = PrefixTree(stored)
        self._slots: list[Slot] = []  # those that were given back in the order of their last use, oldest first
        self._logits: dict[int, NDArray[np.float32]] = {}  # of a pass of one token a row, by the number of rows

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token in the cache."""
        return self._decoder.cache_spec.bytes_per_token()

    @property
    def held(self) -> int:
        """Tokens that slots and what is stored beside them hold or have reserved."""
        return sum(slot.held for slot in list(self._slots)) + self._stored.tokens

    @property
    def taken(self) -> int:
        """Number of slots that texts have taken."""
        return len(self.all_taken())

    @property
    def left(self) -> int:
        """Number of further texts that may take a slot, as far as the budget allows."""
        return self._rows - self.taken

    @property
    def any_rows(self) -> bool:
        """Whether passes may have any tokens of each slot."""
        return self._decoder.any_rows

    def all_taken(self) -> set[Slot]:
        """Slots that texts have taken."""
        return {slot for slot in self._slots if slot.taken}

    def take(self, ids: Sequence[int], at_most: int, tokens: int | None = None) -> Slot | None:
        """Take a slot for a text that begins with `ids`; None: all are taken, or the budget is.

        Its ids are the longest beginning of `ids`, of at most `at_most` tokens, that is known. `tokens`: how long
        the text may become (default: as long as `ids`). A text alone gets its slot whatever the budget.
        """
        idle = [slot for slot in self._slots if not slot.taken]
        if len(self._slots) - len(idle) >= self._rows:
            return None
        known = ids[: max(at_most, 0)]
        source, shared = self._longest(known)
        stored = self._stored.states(known) if self._stored.longest(known) > shared else []
        needed = Slot(-1, reserved=max(tokens or 0, len(ids))).held
        if not self._fits(needed):
            return None
        if stored:
            slot = self._empty(idle, None)
            for state in stored:
                self._cache.write(slot.row, len(slot.ids), state)
                slot.ids += ids[len(slot.ids) : len(slot.ids) + len(state[0])]
        elif source is not None and self._continues(source, shared, idle):
            slot = source
            if not _goes_on(slot, shared):
                self._store(slot)
            held = len(slot.ids)
            del slot.ids[shared:]  # first: of what is released nothing may count as held
            if held > shared + GROWTH_STEP:
                self._cache.release(slot.row, shared)
        else:
            slot = self._empty(idle, source)
            if source is not None and shared:
                self._cache.copy(source.row, slot.row, shared)
                slot.ids = source.ids[:shared]
        slot.taken, slot.reserved = True, needed
        if self.budget is not None:
            self._keep_to(self.budget)
        return slot

    def give_back(self, slot: Slot) -> None:
        """End the text of `slot`; what it holds stays for texts with the same beginning, while there is room.

        Nothing happens to a slot that is not taken.
        """
        if not slot.taken:
            return
        slot.taken, slot.reserved = False, 0
        self._slots.remove(slot)
        self._slots.append(slot)
        idle = [each for each in self._slots if not each.taken]
        for each in idle[: max(len(idle) - self._kept, 0)]:
            self._free(each)

    @property
    def last_ended(self) -> list[int]:
        """Ids of the text that was given back last, of those that are held in slots; empty if there is none."""
        return next((list(slot.ids) for slot in reversed(self._slots) if not slot.taken), [])

    def contents(self, ids: Sequence[int]) -> Contents | None:
        """Views of the keys and values of `ids`, valid until the next change; None: no slot begins with all of them."""
        source, shared = self._longest(ids)
        if source is None or shared < len(ids):
            return None
        self._cache.truncate(len(source.ids), source.row)
        return self._cache.contents(source.row, shared)

    def restore(self, ids: Sequence[int], write: Callable[[Contents], None]) -> None:
        """Hold the text `ids` as one that has ended; `write` fills views of its keys and values.

        UsageError, before anything changes: it does not fit beside the texts that have taken slots.
        """
        taken = [slot.held for slot in self._slots if slot.taken]
        needed = Slot(-1, list(ids), taken=False).held
        if self.budget is not None and sum(taken) + needed > self.budget:
            each = self.bytes_per_token / 2**20
            raise UsageError(
                f"a prefix of {len(ids)} tokens takes {needed * each:.1f} MiB of KV cache, running texts take "
                f"{sum(taken) * each:.1f}, and there are {self.budget * each:.1f} for all; allow more (kv_memory)"
            )
        if not self._kept or len(taken) >= self._rows:
            raise UsageError("all slots are taken by running texts; restore the prefix when one has ended")
        slot = self._empty([each for each in self._slots if not each.taken], None)
        try:
            self._cache.fill(slot.row, len(ids), write)
        except BaseException:
            self._free(slot, store=False)
            raise
        slot.ids = list(ids)
        self.give_back(slot)
        if self.budget is not None:
            self._keep_to(self.budget)

    def extend(self, slot: Slot, ids: Sequence[int], keep: int = 1) -> NDArray[np.float32]:
        """Append `ids`, at least one, to a slot; returns logits float32 [keep, V] after each of the last `keep`.

        The next pass may overwrite them. UsageError: the context is full.
        """
        self.reserve(slot, len(ids))
        out = self._out(1) if len(ids) == 1 else None
        logits = self._decoder.forward(np.array([ids], np.int64), self._cache, keep=keep, out=out, first_row=slot.row)
        slot.ids += ids
        found: NDArray[np.float32] = logits[0]
        return found

    def read(self, slot: Slot, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append `ids`, at least one, in chunks; returns logits float32 [V] after the last, as `extend` does."""
        for start in range(0, len(ids), PREFILL_CHUNK):
            logits: NDArray[np.float32] = self.extend(slot, ids[start : start + PREFILL_CHUNK])[0]
        return logits

    def step(self, tokens: Mapping[Slot, int]) -> Iterator[Mapping[Slot, NDArray[np.float32]]]:
        """Append one token to each of several slots; yields logits float32 [V] for those of one pass after another.

        They are valid until the next is asked for. Slots near each other share a pass, or all if `any_rows`.
        """
        if self.any_rows:
            together = self._together({slot: [token] for slot, token in tokens.items()}, 1)
            yield {slot: logits[0] for slot, logits in together.items()}
            return
        for slot in tokens:
            self.reserve(slot, 1)
        for pass_slots in _near(sorted(tokens, key=lambda slot: slot.row), _WIDEST_GAP * self._decoder.idle_rows):
            first, last = pass_slots[0].row, pass_slots[-1].row
            ids, counts = np.zeros((last - first + 1, 1), np.int64), [0] * (last - first + 1)
            for slot in pass_slots:
                ids[slot.row - first], counts[slot.row - first] = tokens[slot], 1
            logits = self._decoder.forward(ids, self._cache, counts=counts, out=self._out(len(ids)), first_row=first)
            for slot in pass_slots:
                slot.ids.append(tokens[slot])
            yield {slot: logits[slot.row - first, 0] for slot in pass_slots}

    def extend_beside(
        self, slot: Slot, ids: Sequence[int], tokens: Mapping[Slot, int], keep: int = 1
    ) -> Mapping[Slot, NDArray[np.float32]]:
        """Append `ids` to a slot and one token to each of some others, in one pass, if `any_rows`.

        Returns logits float32 [keep, V] of `slot` and [1, V] of each other, valid until the next pass.
        """
        return self._together({slot: ids, **{other: [token] for other, token in tokens.items()}}, keep)

    def reserve(self, slot: Slot, more: int) -> None:
        """Make room for `more` tokens in a slot. UsageError: the context is full."""
        self._cache.truncate(len(slot.ids), slot.row)
        self._cache.reserve(len(slot.ids) + more)

    def truncate(self, slot: Slot, length: int) -> None:
        """Forget every token of a slot after the first `length`."""
        del slot.ids[length:]

    def _together(self, ids: Mapping[Slot, Sequence[int]], keep: int) -> dict[Slot, NDArray[np.float32]]:
        """Append ids to slots in one pass, one to each but the first; logits of `keep` and of one each."""
        for slot, added in ids.items():
            self.reserve(slot, len(added))
        kept = keep - 1 + len(ids)
        out = self._out(kept).reshape(1, kept, -1)
        logits = self._decoder.forward_rows({slot.row: added for slot, added in ids.items()}, self._cache, out=out)[0]
        for slot, added in ids.items():
            slot.ids += added
        first, *others = ids
        return {first: logits[:keep], **{slot: logits[keep + i : keep + i + 1] for i, slot in enumerate(others)}}

    def _longest(self, ids: Sequence[int]) -> tuple[Slot | None, int]:
        """The slot that holds the longest beginning of `ids`, the last used one of several, and its length."""
        found: tuple[Slot | None, int] = (None, 0)
        for slot in self._slots:
            shared = common_length(slot.ids, ids)
            if shared and shared >= found[1]:
                found = slot, shared
        return found

    def _fits(self, needed: int) -> bool:
        taken = [slot.held for slot in self._slots if slot.taken]
        return self.budget is None or not taken or sum(taken) + needed <= self.budget

    def _continues(self, source: Slot, shared: int, idle: Sequence[Slot]) -> bool:
        """Whether the text takes the row of `source` itself: it goes on there, or there is no other."""
        if source.taken:
            return False
        others = len(idle) > 1 or (len(self._slots) < self._rows and len(idle) < self._kept)
        return _goes_on(source, shared) or not others

    def _empty(self, idle: Sequence[Slot], source: Slot | None) -> Slot:
        """A new slot, in place of the one that was not used for the longest time where there are enough."""
        others = [slot for slot in idle if slot is not source]
        if others and (len(idle) >= self._kept or len(self._slots) >= self._rows):
            self._free(others[0])
        self._slots.append(Slot(self._cache.take()))
        return self._slots[-1]

    def _keep_to(self, budget: int) -> None:
        """Forget texts that have ended, the longest unused first, until the rest is within the budget."""
        self._stored.shrink(budget - sum(slot.held for slot in self._slots))
        for slot in [slot for slot in self._slots if not slot.taken]:
            if sum(slot.held for slot in self._slots) > budget:
                self._free(slot, store=False)

    def _free(self, slot: Slot, *, store: bool = True) -> None:
        """Give up an idle slot; its text is stored, as far as there is room."""
        self._slots.remove(slot)
        try:
            if store:
                self._store(slot)
        finally:  # where there is no memory to store it in, too
            self._cache.give_back(slot.row)

    def _store(self, slot: Slot) -> None:
        if self._stored.limit:
            self._stored.insert(slot.ids, lambda start, end: self._cache.read(slot.row, start, end))
            if self.budget is not None:
                self._stored.shrink(self.budget - sum(each.held for each in self._slots))

    def _out(self, rows: int) -> NDArray[np.float32]:
        if rows not in self._logits:
            self._logits[rows] = np.empty((rows, 1, self._decoder.config.vocab_size), np.float32)
        return self._logits[rows]


def _goes_on(slot: Slot, shared: int) -> bool:
    """Whether a text that shares so many tokens is rather the next turn of the slot's than another."""
    return 2 * shared >= len(slot.ids)


def _near(slots: Sequence[Slot], widest_gap: int) -> Iterator[list[Slot]]:
    """Groups of slots, which are in the order of their rows, with at most `widest_gap` rows between neighbours."""
    group: list[Slot] = []
    for slot in slots:
        if group and slot.row - group[-1].row > 1 + widest_gap:
            yield group
            group = []
        group.append(slot)
    if group:
        yield group
