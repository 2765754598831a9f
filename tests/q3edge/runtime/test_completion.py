"""A stream is one thread's: another that reads it beside that is told so, and changes nothing."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from q3edge.errors import UsageError
from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.generation.statistics import Statistics


class Slow:
    """Generation of two tokens, each of which waits until it may come."""

    ended = False

    def __init__(self, pieces: deque[Piece]) -> None:
        self.pieces, self.waits, self.may_come, self.left = pieces, Event(), Event(), 2

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.waits.set()
        assert self.may_come.wait(60)
        self.left -= 1
        self.pieces.append(Piece("x"))
        return 0

    def take(self) -> list[int]:
        return []

    def close(self) -> None:
        self.ended = True


def test_a_second_thread_is_refused_in_one_line_and_the_first_goes_on() -> None:
    pieces = deque[Piece]()
    slow: Any = Slow(pieces)
    stream = Stream(lambda *_: slow, pieces, lambda: Completion("xx", "", "xx", (0, 0), Statistics()), lambda: None)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, stream)
        assert slow.waits.wait(60)
        for act in (stream.__next__, stream.take, stream.finish):
            with pytest.raises(UsageError, match="another thread is reading this stream"):
                act()
        slow.may_come.set()
        assert reading.result(60) == [Piece("x")] * 2
    assert stream.completion.answer == "xx"
    assert list(stream) == []
