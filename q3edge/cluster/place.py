"""`Place`: where work on independent pieces runs. Who computes names the pieces; who calls chooses the place.

    for result in spread(function, items):  # in order
        ...

The place goes through a context variable, as progress does. Without one, pieces run in the threads of this process.
Pieces never depend on where they run, so results do not either, as long as the same kind of CPU computes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Protocol, TypeVar

import torch

from q3edge.reference.parallel import ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = Sequence[slice]  # consecutive ranges of sequences


class RowValues(ABC):
    """Values of rows of text, float32 [n, S, K] for a range of rows, that pieces of work read and write.

    Elsewhere a piece finds the values of its own rows only. stays: whether values that are written elsewhere may stay
    there until they are read there; else they come back here.
    """

    stays: bool

    @abstractmethod
    def read(self, part: slice) -> torch.Tensor:
        """Read the values of a range of rows; EOFError if they were not written."""

    @abstractmethod
    def write(self, part: slice, values: torch.Tensor) -> None:
        """Store the values of a range of rows."""


class Place(Protocol):
    """Where work runs. elsewhere: in other processes, which share no file with this one but checkpoints."""

    elsewhere: bool

    def run(self, work: Callable[[Iterable[Item]], Iterator[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of `work`, which gives one for each item that it is called with, for all items in order.

        Items that are no sequence are taken as they are needed. What `work` refers to is not to change until the last
        result is there.
        """

    def run_rows(self, work: Callable[[Sequence[Rows]], Iterator[Result]], blocks: Sequence[Rows]) -> Iterator[Result]:
        """As `run`, for blocks of rows, whose RowValues `work` may read and write."""


class Threads:
    """Threads of this process, which the work itself uses."""

    elsewhere = False

    def run(self, work: Callable[[Iterable[Item]], Iterator[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of `work` for all items."""
        return work(items)

    def run_rows(self, work: Callable[[Sequence[Rows]], Iterator[Result]], blocks: Sequence[Rows]) -> Iterator[Result]:
        """Yield the results of `work` for all blocks."""
        return work(blocks)


_place: ContextVar[Place] = ContextVar("place", default=Threads())  # noqa: B039 - it has no state


def present_place() -> Place:
    """Place where work of this thread runs now."""
    return _place.get()


@contextmanager
def working_at(place: Place) -> Iterator[None]:
    """Have the work of this thread run at `place` inside the block."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def spread(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `function` to every item, at the present place and in threads there; yields results in order.

    `function` and what it refers to can be pickled, and return values only: what it changes may be lost.
    """
    return present_place().run(partial(ordered_map, function), items)
