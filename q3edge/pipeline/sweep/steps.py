"""Steps of a sweep, counted aloud: which of how many, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from q3edge import progress
from q3edge.terminal import duration


class Named(Protocol):
    """Anything with a name to show."""

    @property
    def name(self) -> str:
        """Name of the variant."""


Step = TypeVar("Step", bound=Named)


def counted_steps(steps: Sequence[Step], doing: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Step]:
    """Yield the steps, each with a note of its number, and of the time left if all take as long as those before."""
    start = clock()
    for done, step in enumerate(steps):
        left = f", about {duration((clock() - start) / done * (len(steps) - done))} left" if done else ""
        progress.note(f"{done + 1} of {len(steps)}, {step.name}: {doing}{left}")
        yield step
