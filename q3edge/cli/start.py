"""The first code of the command, which imports nothing slow: signals are handled before the rest is there.

While the command line is imported, and once a command is over, a signal ends the process at once, as nothing is half
done. While a command runs, a signal is an exception, so that staged folders are removed on the way out; it waits for
the end of an import.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
_IMPORT_MACHINERY = "<frozen importlib._bootstrap>"
_POSTPONED_SECONDS = 0.01
_Handler = Callable[[int, FrameType | None], None]


class InterruptedByUserError(KeyboardInterrupt):
    """Ctrl-C, as a class of our own.

    Once a KeyboardInterrupt itself has passed through exec(), which dataclasses call while they are imported, CPython
    ends `python -m` by the signal, whatever exit code was asked for.
    """


def entry_point() -> NoReturn:
    """Console script: run and exit with the code."""
    leave_at_signals()
    from q3edge.cli.main import main

    try:
        code = main(sys.argv[1:])
    finally:
        leave_at_signals()
    sys.exit(code)


def leave_at_signals() -> None:
    """Make Ctrl-C and SIGTERM end the process at once with their exit codes."""
    _handle(_leave_interrupted, _leave_terminated)


def raise_at_signals() -> None:
    """Make Ctrl-C an InterruptedByUserError and SIGTERM a SystemExit."""
    _handle(_interrupt, _terminate)


def _handle(interrupt: _Handler, terminate: _Handler) -> None:
    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored: a job in the background
        signal.signal(signal.SIGINT, interrupt)


def _leave_interrupted(_number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _leave_terminated(_number: int, _frame: FrameType | None) -> None:
    os._exit(TERMINATED)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    if not _postponed(_interrupt, frame):
        raise InterruptedByUserError


def _terminate(_number: int, frame: FrameType | None) -> None:
    if not _postponed(_terminate, frame):
        raise SystemExit(TERMINATED)


def _postponed(handler: _Handler, frame: FrameType | None) -> bool:
    """Whether the command is importing; then `handler` is called again soon.

    Native modules make of an exception in their import what they like: an ImportError, or the end of the process.
    """
    if not hasattr(signal, "setitimer"):  # Windows
        return False
    while frame is not None and frame.f_globals.get("__name__") != "q3edge.cli.main":
        if frame.f_code.co_filename == _IMPORT_MACHINERY:
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, _POSTPONED_SECONDS)
            return True
        frame = frame.f_back
    return False
