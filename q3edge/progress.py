"""Progress of long work, reported to a listener if there is one.

    with progress.task("quantize", total) as advance:
        advance(n)

A listener is registered once, with `report_to`, and is not passed through the code between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

from q3edge.plain_line import plain_line

Advance = Callable[[int], None]


class Listener(Protocol):
    """Receiver of the progress of all work in one thread."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Begin one named piece of work of `total` units of any kind; leaving the block ends it."""

    def note(self, text: str) -> None:
        """Receive one line of text, between two pieces of work."""


class Silent:
    """Listener that discards everything."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """Discard the progress."""
        yield lambda _count: None

    def note(self, text: str) -> None:
        """Discard the line."""


_listener: ContextVar[Listener] = ContextVar("listener", default=Silent())  # noqa: B039 - it has no state


@contextmanager
def report_to(listener: Listener) -> Iterator[None]:
    """Register `listener` for all work of this thread inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def task(label: str, total: int) -> AbstractContextManager[Advance]:
    """Begin one named piece of work of `total` units, reported to the registered listener; use in a `with` block."""
    return _listener.get().task(plain_line(label), total)


def portion(advance: Advance, work: int, count: int) -> Advance:
    """Make an `advance` for a part of the work: `count` units of its own are `work` units of the whole."""
    done = told = 0

    def advance_part(units: int) -> None:
        nonlocal done, told
        done += units
        reached = work * done // count
        advance(reached - told)
        told = reached

    return advance_part


def unheard(_count: int) -> None:
    """Advance that nobody listens to."""


def note(text: str) -> None:
    """Report one line of text to the registered listener."""
    _listener.get().note(plain_line(text))
