"""Standard input and output: UTF-8 wherever they lead, whatever the system's encoding is, and present."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from q3edge.errors import ResourceError, UsageError

MAX_INPUT = 64 << 20  # bytes of a prompt: many times the longest context


class _Unheeded(io.FileIO):
    """File whose failing writes are dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def use_utf8() -> None:
    """Make stdout and stderr UTF-8 where they are no terminals; what cannot be written is escaped, not an error.

    Where stderr is full, a result and its exit code are still worth having: notes and progress are dropped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper) and not sys.stderr.isatty():
        file = io.BufferedWriter(_Unheeded(sys.stderr.fileno(), "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def require_streams() -> None:
    """Fill closed standard streams, whose numbers the next files opened would get. ResourceError: stdout is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the life of the process
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        raise ResourceError("standard output is closed; redirect it to a file or to /dev/null")


def is_terminal() -> bool:
    """Whether standard input is a terminal, from which nothing comes by itself."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_stdin() -> str:
    """Read all of standard input, UTF-8. UsageError: it is closed, over 64 MiB or not UTF-8."""
    return _decoded(_stdin().read(MAX_INPUT + 1))


def stdin_lines() -> Iterator[str]:
    """Lines of standard input, UTF-8, each with its line feed; errors are those of `read_stdin`."""
    stdin = _stdin()
    while line := stdin.readline(MAX_INPUT + 1):
        yield _decoded(line)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("standard input is closed; give the prompt as an argument")
    return sys.stdin.buffer


def _decoded(content: bytes) -> str:
    from q3edge.storage.text_files import decode_utf8

    if len(content) > MAX_INPUT:
        raise UsageError(f"standard input has more than {MAX_INPUT >> 20} MiB; give a shorter prompt")
    return decode_utf8(content, _not_utf8)


def _not_utf8(line: int, problem: str) -> UsageError:
    return UsageError(f"standard input is not UTF-8 ({problem}, line {line}); convert it to UTF-8")
