"""How long work reports its progress, without knowing whether a terminal, a log or nobody listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """`with progress.task("quantize", total) as advance: ... advance(n)`; the unit is the task's own."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Begin one named piece of work of `total` units; leaving the block ends it."""

    def note(self, text: str) -> None:
        """One line for the person watching, between two pieces of work."""


class Silent:
    """Reports nothing."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """Accept the calls and do nothing."""
        yield lambda _count: None

    def note(self, text: str) -> None:
        """Ignore it."""
