"""How long work reports its progress, without knowing whether a terminal, a log or nobody listens.

    with progress.task("quantize", total) as advance:
        advance(n)

Whoever wants to see it says so once, with `report_to`; nothing in between passes a listener on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

Advance = Callable[[int], None]


class Listener(Protocol):
    """Is told of the work that is done in one thread while it listens."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Begin one named piece of work of `total` units, whatever these are; leaving the block ends it."""

    def note(self, text: str) -> None:
        """Take one line for the person watching, between two pieces of work."""


class Silent:
    """Tells nobody."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """Accept the calls and do nothing."""
        yield lambda _count: None

    def note(self, text: str) -> None:
        """Ignore it."""


_listener: ContextVar[Listener] = ContextVar("listener", default=Silent())  # noqa: B039 - it has no state


@contextmanager
def report_to(listener: Listener) -> Iterator[None]:
    """Let `listener` know of all work inside the block that this thread does."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def task(label: str, total: int) -> AbstractContextManager[Advance]:
    """Begin one named piece of work, for whoever listens; see `Listener.task`."""
    return _listener.get().task(label, total)


def note(text: str) -> None:
    """Give one line to whoever listens; see `Listener.note`."""
    _listener.get().note(text)
