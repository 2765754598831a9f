"""Requests of an engine: what it needs of each, what it keeps of each, and the tokens that come of one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from q3edge.runtime.engine.slots import Slot
from q3edge.runtime.generation.statistics import Statistics


class EngineRequest(Protocol):
    """What an engine needs of a request; `generation.request` says what each means, `generation.scoring` is another."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def computed(self) -> int: ...
    @property
    def finished(self) -> bool: ...
    @property
    def statistics(self) -> Statistics: ...
    @property
    def reusable(self) -> int: ...
    @property
    def keep(self) -> int: ...
    @property
    def longest(self) -> int: ...
    @property
    def prefilling(self) -> bool: ...

    def start(self, cached: int) -> None: ...
    def next_ids(self, at_most: int, *, alone: bool = True) -> list[int]: ...
    def advance(self, logits: NDArray[np.float32]) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Event:
    """News of the request `id`: its new tokens, whether it is finished, the error that ended it."""

    id: int
    tokens: tuple[int, ...] = ()
    finished: bool = False
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """A request in the engine. patient: it may wait for whole chunks of others; inbox: for a `Generation`.

    on_news: called, in the thread that makes the pass, whenever there is something in the inbox.
    """

    id: int
    request: EngineRequest
    patient: bool
    inbox: deque[Event] | None
    on_news: Callable[[], None] | None = None
    arrived: float = field(default_factory=time.perf_counter)
    slot: Slot | None = None
    cancelled: bool = False


class Passes(Protocol):
    """What a `Generation` needs of an engine."""

    def receive(self, entry: Entry) -> Event: ...
    def cancel(self, number: int) -> None: ...


class Generation(Iterator[int]):
    """Token ids of one request; each wait for one makes passes, for all requests of the engine."""

    def __init__(self, engine: Passes, entry: Entry) -> None:
        self._engine, self._entry = engine, entry
        self._tokens: deque[int] = deque()
        self.ended = False  # there is no token after those that were taken

    def __next__(self) -> int:
        """Next token id. Raises the error that ended the request; after `close` there are no more."""
        while not self._tokens:
            if self.ended:
                raise StopIteration
            self._open(self._engine.receive(self._entry))
        return self._tokens.popleft()

    def take(self) -> list[int]:
        """Take the tokens that are there, without making a pass. Raises the error that ended the request."""
        assert self._entry.inbox is not None
        while self._entry.inbox:
            self._open(self._entry.inbox.popleft())
        found = list(self._tokens)
        self._tokens.clear()
        return found

    def close(self) -> None:
        """End the request, unless it has ended; its slot is free."""
        self.ended = True
        self._tokens.clear()
        self._engine.cancel(self._entry.id)

    def _open(self, event: Event) -> None:
        self.ended = event.finished or event.error is not None
        if event.error is not None:
            raise event.error
        self._tokens.extend(event.tokens)
