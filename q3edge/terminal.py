"""Text and progress on stderr: bars and lines that fit on a terminal, whole lines in a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread
from typing import TYPE_CHECKING

from q3edge.columns import columns, wrapped
from q3edge.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

LINE_SECONDS = 30.0  # between two lines about the same work
WORTH_AN_END_SECONDS = 10.0  # work that took less ends without a line
WORTH_SHOWING_SECONDS = 1.0  # a wait that is shorter is not shown
_SHOWN_AGAIN_SECONDS = 0.2
_ERASE = "\r\x1b[K"  # the line that the cursor is on
_USUAL_COLUMNS = 80  # where a terminal does not say how wide it is


def say(text: str) -> None:
    """Print lines to stderr. On a terminal, those that are wider than it are broken between words; in a file, none."""
    if sys.stderr.isatty():
        width = _width()
        lines = ([line] if columns(line) <= width else wrapped(line, width, "  ") for line in text.split("\n"))
        text = "\n".join(part for parts in lines for part in parts)
    print(text, file=sys.stderr, flush=True)


def is_dumb() -> bool:
    """Whether the terminal can do nothing but show characters."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def has_styles() -> bool:
    """Whether stderr is a terminal that shows styles such as dim text, and the user wants them (NO_COLOR)."""
    return sys.stderr.isatty() and not is_dumb() and "NO_COLOR" not in os.environ


@contextmanager
def shown_while_waiting(describe: Callable[[], str]) -> Iterator[None]:
    """Show on a terminal what the block waits for, if that takes more than a second, until it ends."""
    if not sys.stderr.isatty() or is_dumb():
        yield
        return
    over = Event()
    shower = Thread(target=_show_until, args=(over, describe), daemon=True)
    shower.start()
    try:
        yield
    finally:
        over.set()
        shower.join()


def _show_until(over: Event, describe: Callable[[], str]) -> None:
    shown = False
    wait = WORTH_SHOWING_SECONDS
    while not over.wait(wait):
        print(_ERASE + describe()[: _width() - 1], end="", file=sys.stderr, flush=True)
        shown, wait = True, _SHOWN_AGAIN_SECONDS
    if shown:
        print(_ERASE, end="", file=sys.stderr, flush=True)


class TerminalProgress:
    """Listener that shows progress on stderr (honours NO_COLOR). `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bars: Progress | None = None  # of the work that is under way: one display, as rich allows no second

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """Show a bar on a terminal until the work ends; in a file, print a line at the start and every 30 s.

        Long work leaves a line at its end.
        """
        start = self._clock()
        with self._bar(label, total) if sys.stderr.isatty() else _lines(label, total, self._clock) as advance:
            yield advance
        if (took := self._clock() - start) >= WORTH_AN_END_SECONDS:
            say(f"{label}: done in {duration(took)}")

    def note(self, text: str) -> None:
        """Print one line."""
        say(text)

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Advance]:
        outermost = self._bars is None
        bars = self._bars = self._bars or _new_bars()
        bar = bars.add_task(label, total=total)
        try:
            with bars if outermost else nullcontext():
                yield lambda count: bars.advance(bar, count)
        finally:
            bars.remove_task(bar)
            if outermost:
                self._bars = None


def duration(seconds: float) -> str:
    """Format seconds in the fitting unit: 42 s, 5 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def _lines(label: str, total: int, clock: Callable[[], float]) -> Iterator[Advance]:
    start = said = clock()
    done = 0
    say(f"{label}: started")

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = clock()
        if 0 < done < total and now - said >= LINE_SECONDS:
            said = now
            left = (now - start) * (total - done) / done
            say(f"{label}: {100 * done // total} %, about {duration(left)} left")

    yield advance


def _new_bars() -> Progress:
    """Bars that vanish when the work ends."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    times = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    return Progress(*columns, *times, console=_console(), transient=True)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError):  # no terminal's file, as while another program shows what is written
        return _USUAL_COLUMNS
