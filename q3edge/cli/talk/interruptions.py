"""What may come between in a conversation in a terminal: Ctrl-C, and an end from outside."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminal_restored() -> Iterator[None]:
    """Leave the terminal as it was found, also where a signal ends the block between an editor's own steps."""
    try:
        import termios
    except ImportError:  # there are none
        yield
        return
    found = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, found)


class Interruptions:
    """Ctrl-C ends what is done in `allowed`, once, and nothing else: not the program, however often it is pressed.

    A context manager; the handling of before comes back behind it.
    """

    def __init__(self) -> None:
        self._before = signal.getsignal(signal.SIGINT)
        self._armed = False

    def __enter__(self) -> Interruptions:
        if callable(self._before):  # else the signal is ignored, as for a job in the background
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if callable(self._before):
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Block that the first Ctrl-C ends with a KeyboardInterrupt."""
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._armed and callable(self._before):
            self._armed = False
            self._before(number, frame)
