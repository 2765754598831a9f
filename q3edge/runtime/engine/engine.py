"""`Engine`: many requests on one decoder, by passes that they share; any may join or leave between two passes.

A pass is a chunk of one prompt, the next token of every running request, or both where the kernels can. Prompts are
read one after another, but a short one beside a long one, in turn with tokens, in chunks so small that nobody waits
long (`chunk_size`). Slots and the beginnings that texts share are in `slots`; what a request makes of its logits is its
own affair (`generation.request`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from threading import Condition, Lock, RLock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.runtime.engine.chunk_size import ChunkSize
from q3edge.runtime.engine.requests import EngineRequest, Entry, Event, Generation
from q3edge.runtime.engine.slots import PREFILL_CHUNK, Slot, Slots

Result = TypeVar("Result")

_LOST = 1.0  # seconds after which who waits for a pass looks whether somebody makes it
_OVERTAKEN = 8  # requests that may go before one that is patient: where there are always others, it has its turn too
_MUCH_SHORTER = 4  # times: what is left of a prompt, for another to be read beside it
SLOWDOWN = 3.0  # aim for the time between two tokens while another's prompt is read, in times of that otherwise


class Engine:
    """Requests on the slots of one decoder, in the order of their arrival. Safe to use from several threads.

    Nothing runs by itself: passes are made by whoever calls `step`, or wants the next token of a `Generation`.
    """

    def __init__(
        self, slots: Slots, *, deterministic: bool = False, strict: bool = False, slowdown: float = SLOWDOWN
    ) -> None:
        """Start without requests.

        deterministic: one row in each pass, whole chunks, nothing taken over from other texts: the tokens of a request
        are those that it gets alone. strict: a request that may not fit the slots' budget is refused, even alone.
        slowdown: see `SLOWDOWN`.
        """
        self.slots = slots
        self.deterministic, self._strict = deterministic, strict
        self._chunks = ChunkSize(slowdown - 1)
        self._numbers = count()
        self._known: dict[int, Entry] = {}  # requests that have not ended, by their numbers
        self._waiting: deque[Entry] = deque()
        self._patient: deque[Entry] = deque()  # wait behind those
        self._overtaken = 0  # requests that went before the first of the patient
        self._reading: list[Entry] = []  # requests whose prompts are being read, the next in turn first; at most two
        self._running: list[Entry] = []
        self._read_next = True  # whether the next pass is the prompt's, if there is one
        self._events: list[Event] = []  # for `step`
        # Guards all of this, but for what the thread that makes a pass changes meanwhile. An interruption (Ctrl-C) may
        # come between any two steps of the main thread: so locks are taken by `with` alone, which always lets go of
        # them, and who waits does not rely on being told.
        self._lock = RLock()
        self._passed = Condition(self._lock)
        self._claimed: object = None  # set while a thread makes a pass, or is about to; stays if it was interrupted
        self._passing = Lock()  # held during a pass

    @property
    def busy(self) -> bool:
        """Whether any request is not finished."""
        return bool(self._known)

    @property
    def running(self) -> int:
        """Number of requests that passes are made for."""
        return len(self._running) + len(self._reading)

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return len(self._waiting) + len(self._patient)

    def add(self, request: EngineRequest, *, patient: bool = False) -> int:
        """Queue a new request; returns its number, which its events carry. `patient`: see `generate`.

        UsageError: it may take more of the KV cache than there is for all (`strict`).
        """
        return self._add(request, patient, None).id

    def generate(
        self, request: EngineRequest, *, patient: bool = False, on_news: Callable[[], None] | None = None
    ) -> Generation:
        """Queue a new request and return its tokens, as they come. UsageError: as `add`.

        patient: nobody looks at single tokens, so others go first, up to eight of them, and their prompts are read in
        whole chunks. on_news: called whenever `Generation.take` has something to give, by the thread that made the
        pass; it must be short and raise nothing.
        """
        return Generation(self, self._add(request, patient, deque(), on_news))

    def step(self) -> list[Event]:
        """Make one pass, or wait for the one that another thread makes; returns the news of requests that were added.

        An error that concerns single requests is in their events, and the others go on.
        """
        if self._claim():
            self._exclusively(self._pass)
        with self._lock:
            events, self._events = self._events, []
        return events

    def between_passes(self, act: Callable[[Slots], Result]) -> Result:
        """Return what `act` makes of the slots, while no pass is made: it must leave those of requests alone."""
        while not self._claim():
            pass
        return self._exclusively(lambda: act(self.slots))

    def cancel(self, number: int) -> None:
        """End a request, unless it has ended; there are no more events of it, and its slot is free."""
        with self._lock:
            if number in self._known:
                self._known[number].cancelled = True
            if self._claimed is None and not self._passing.locked():
                self._remove_cancelled()

    def _add(
        self,
        request: EngineRequest,
        patient: bool,
        inbox: deque[Event] | None,
        on_news: Callable[[], None] | None = None,
    ) -> Entry:
        budget = self.slots.budget
        if self._strict and budget is not None and request.longest > budget:
            each = self.slots.bytes_per_token / 2**20
            raise UsageError(
                f"the request may come to {request.longest} tokens, {request.longest * each:.3g} MiB of KV cache, and "
                f"kv_memory allows {budget}, {budget * each:.3g} MiB; lower max_new_tokens, or allow more"
            )
        with self._lock:
            entry = Entry(next(self._numbers), request, patient, inbox, on_news)
            (self._patient if patient else self._waiting).append(entry)
            self._known[entry.id] = entry  # last: an interruption before it leaves a request that nobody waits for
        return entry

    def _claim(self) -> bool:
        """Whether the pass is this thread's to make, which it then has to; else wait for another thread's first."""
        with self._lock:
            claimed = self._claimed
            if claimed is None:
                self._claimed = object()
                return True
            if not self._passed.wait(_LOST) and self._claimed is claimed and not self._passing.locked():
                self._claimed = None  # who was to make it was interrupted just before it, or just after
            return False

    def _exclusively(self, act: Callable[[], Result]) -> Result:
        """Make the pass that this thread has claimed, or do something else in its place."""
        try:
            with self._passing:
                return act()
        finally:
            with self._lock:
                self._claimed = None
                self._passed.notify_all()
                if not self._passing.locked():
                    self._remove_cancelled()

    def _pass(self) -> None:
        self._admit()
        running = list(self._running)
        if self._reading and (self._read_next or not running or self._reads_on()):
            self._read_next = False
            reading, *others = self._reading
            self._reading = [*others, reading]  # the other is next
            if self._rides(reading):
                self._read_next = True
                self._read_beside(reading, running)
            else:
                self._read(reading)
        elif running:
            self._read_next = True
            began = time.perf_counter()
            if self.deterministic or len(running) == 1:
                for entry in running:
                    self._extend(entry, PREFILL_CHUNK)
            else:
                self._step_together(running)
            self._chunks.record_step(time.perf_counter() - began, len(running))

    def _admit(self) -> None:
        """Give the first of the waiting a slot, if there is one and its prompt's turn has come.

        One after another, so that a prompt finds what the one before it has in common with it; but one that is much
        shorter than what is left of another need not wait for all of that.
        """
        waiting = self._waiting or self._patient
        if self._patient and self._overtaken >= _OVERTAKEN:
            waiting = self._patient
        with self._lock:
            entry = next((each for each in waiting if self._has_turn(each)), None)
        if entry is None:
            return
        taken = self.slots.all_taken()
        try:
            at_most = 0 if self.deterministic else entry.request.reusable
            entry.slot = self.slots.take(entry.request.ids, at_most, entry.request.longest)
            if entry.slot is None and (self._running or self._reading):
                return  # one of these gives its slot back
            if entry.slot is None:
                raise UsageError("all slots are taken by others; give one back, or give each its own")
            entry.request.start(len(entry.slot.ids))
            waiting.remove(entry)
            self._reading.append(entry)
            self._overtaken = self._overtaken + 1 if self._patient and waiting is self._waiting else 0
        except Exception as error:
            waiting.remove(entry)
            self._end(entry, error)
        except BaseException:
            self._end_interrupted(entry)
            for slot in self.slots.all_taken() - taken:  # before it was known as this request's
                self.slots.give_back(slot)
            raise

    def _has_turn(self, entry: Entry) -> bool:
        """Whether the prompt of a request may be read now, beside those that are."""
        if not self._reading:
            return True
        left = [other.request.statistics.prompt_tokens - other.request.computed for other in self._reading]
        return len(left) == 1 and _MUCH_SHORTER * len(entry.request.ids) <= left[0]

    def _reads_on(self) -> bool:
        """Whether prompts have one more chunk before the running requests have their next token."""
        if self.deterministic:
            return False
        return not self._watched or self._chunks.has_room(self._prompts)

    @property
    def _watched(self) -> bool:
        """Whether somebody waits for single tokens."""
        return any(not entry.patient for entry in self._running)

    @property
    def _prompts(self) -> int:
        """Prompts that are being read, or could be. The more these are, the more of the others' time they have."""
        return len(self._reading) + min(len(self._waiting), self.slots.left)

    def _read(self, entry: Entry) -> None:
        """Read a chunk of a prompt; with the last the request is running."""
        size, request = PREFILL_CHUNK, entry.request
        if not self.deterministic and self._watched:
            size = self._chunks.choose(self._prompts)
        began, computed = time.perf_counter(), request.computed
        self._extend(entry, size)
        self._chunks.record_chunk(max(request.computed - computed, 1), time.perf_counter() - began)
        self._run_if_read(entry)

    def _rides(self, entry: Entry) -> bool:
        """Whether the next chunk of a prompt shares a pass with the running requests' tokens."""
        if self.deterministic or not self._watched or not self.slots.any_rows:
            return False
        left = entry.request.statistics.prompt_tokens - entry.request.computed
        tokens = min(self._chunks.choose(self._prompts), left)
        return self._chunks.rides(tokens, self._prompts, len(self._running))

    def _read_beside(self, entry: Entry, running: Iterable[Entry]) -> None:
        """Read a chunk of a prompt and compute one token of each running request, in one pass."""
        began, size = time.perf_counter(), self._chunks.choose(self._prompts)
        if not (ids := self._prepare(entry, size)):
            return
        others, tokens = self._next_tokens(running)
        assert entry.slot is not None
        left = {entry.slot: entry, **others}
        try:
            found = self.slots.extend_beside(entry.slot, ids, tokens, entry.request.keep)
            for slot, logits in found.items():
                self._advance(left.pop(slot), logits)
        except Exception as error:
            for each in left.values():
                self._end(each, error)
        self._chunks.record_ride(len(ids), time.perf_counter() - began)
        self._run_if_read(entry)

    def _run_if_read(self, entry: Entry) -> None:
        """Count a request among the running once its prompt is read."""
        if entry in self._reading and not entry.request.prefilling:
            if entry not in self._running:
                self._running.append(entry)
            self._reading.remove(entry)

    def _extend(self, entry: Entry, at_most: int) -> None:
        """Make a pass of one request alone."""
        assert entry.slot is not None
        try:
            self.slots.truncate(entry.slot, entry.request.computed)
            ids = entry.request.next_ids(at_most)
            logits = self.slots.extend(entry.slot, ids, keep=entry.request.keep)
        except Exception as error:
            self._end(entry, error)
        else:
            self._advance(entry, logits)

    def _step_together(self, running: Iterable[Entry]) -> None:
        """Compute one token of each request."""
        left, tokens = self._next_tokens(running)
        try:
            for found in self.slots.step(tokens):
                for slot, logits in found.items():
                    self._advance(left.pop(slot), logits[None])
        except Exception as error:
            for entry in left.values():
                self._end(entry, error)

    def _next_tokens(self, running: Iterable[Entry]) -> tuple[dict[Slot, Entry], dict[Slot, int]]:
        """Requests by their slots, and the token of each for a pass that they share; those that fail are left out."""
        entries, tokens = dict[Slot, Entry](), dict[Slot, int]()
        for entry in running:
            if (ids := self._prepare(entry, 1)) and entry.slot is not None:
                entries[entry.slot], tokens[entry.slot] = entry, ids[0]
        return entries, tokens

    def _prepare(self, entry: Entry, at_most: int) -> list[int]:
        """Ids of a request for a pass that it shares, with room for them; none if that ends it."""
        assert entry.slot is not None
        try:
            self.slots.truncate(entry.slot, entry.request.computed)  # a pass may have been interrupted
            ids = entry.request.next_ids(at_most, alone=False)
            self.slots.reserve(entry.slot, len(ids))
        except Exception as error:  # no memory for its growth: the others may need none
            self._end(entry, error)
            return []
        return ids

    def _advance(self, entry: Entry, logits: NDArray[np.float32]) -> None:
        """Move a request on by the logits float32 [keep, V] of its pass. An error in it is its own."""
        try:
            self._advance_uninterrupted(entry, logits)
        except BaseException:  # half moved on, it cannot be continued; the others can
            self._end_interrupted(entry)
            raise

    def _advance_uninterrupted(self, entry: Entry, logits: NDArray[np.float32]) -> None:
        assert entry.slot is not None
        request = entry.request
        try:
            new = request.advance(logits)
        except Exception as error:
            self._end(entry, error)
            return
        self.slots.truncate(entry.slot, request.computed)
        if entry in self._reading and not request.prefilling:
            elapsed = time.perf_counter() - entry.arrived
            request.statistics.waiting_seconds = elapsed - request.statistics.prefill_seconds
        if request.finished:
            self._end(entry, None, tuple(new))
        elif new:
            self._tell(entry, Event(entry.id, tuple(new)))

    def _end(self, entry: Entry, error: Exception | None, tokens: tuple[int, ...] = ()) -> None:
        """Remove a request that is finished or has failed, and say so."""
        self._tell(entry, Event(entry.id, tokens, finished=error is None, error=error))
        self._remove(entry)

    def _end_interrupted(self, entry: Entry) -> None:
        """End a request that an interruption met between two states, wherever it is; its slot is free."""
        if entry.id in self._known:
            self._leave_queue(entry)
            self._end(entry, UsageError("the generation was interrupted; ask again"))

    def _tell(self, entry: Entry, event: Event) -> None:
        if not entry.cancelled:
            (self._events if entry.inbox is None else entry.inbox).append(event)
            if entry.on_news is not None:
                entry.on_news()

    def _remove(self, entry: Entry) -> None:
        """Remove a request that is not among those that wait. May be interrupted, and called again."""
        if entry in self._reading:
            self._reading.remove(entry)
        if entry in self._running:
            self._running.remove(entry)
        if entry.slot is not None:
            self.slots.give_back(entry.slot)
            entry.slot = None
        entry.on_news = None  # it may lead to whoever waits for the generation to be forgotten
        self._known.pop(entry.id, None)

    def _leave_queue(self, entry: Entry) -> None:
        for waiting in (self._waiting, self._patient):
            if entry in waiting:
                waiting.remove(entry)

    def _remove_cancelled(self) -> None:
        """Remove the requests that were cancelled; only while no pass is made."""
        for entry in list(self._known.values()):
            # Again: memory that is freed here may be that of streams that nobody closed, which are then cancelled.
            if entry.cancelled and entry.id in self._known:
                self._leave_queue(entry)
                self._remove(entry)

    def receive(self, entry: Entry) -> Event:
        """Next event of a `Generation`; makes passes, for all requests, until there is one."""
        assert entry.inbox is not None
        while True:
            with self._lock:
                if entry.inbox:
                    return entry.inbox.popleft()
                if entry.cancelled:
                    raise UsageError("the generation was closed; ask again")
                mine = self._claim()
            if mine:
                self._exclusively(self._pass)
