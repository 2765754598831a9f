"""Readers of messages: typed at a terminal, with editing and history, or piped, a message a line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from q3edge.cli.standard_streams import stdin_lines
from q3edge.cli.talk.commands import completions
from q3edge.cli.talk.history import History
from q3edge.terminal import is_dumb, say

PROMPT, CONTINUATION = "> ", "... "


class Reader(Protocol):
    """Reader of one message after the other."""

    def read(self) -> str:
        """Next message, of one line or several. EOFError: there are no more."""


class LineReader:
    """Reader for which a line that ends in a backslash goes on in the next."""

    def __init__(self, next_line: Callable[[str], str]) -> None:
        """`next_line`: gives a line without its end, with a prompt where there is somebody to see it; EOFError."""
        self._next_line = next_line

    def read(self) -> str:
        """Next message. EOFError: there are no more."""
        message = self._next_line(PROMPT)
        while message.endswith("\\"):
            message = message[:-1]
            with suppress(EOFError):  # comes again
                message += "\n" + self._next_line(CONTINUATION)
                continue
            break
        return message


def piped() -> Reader:
    """Reader of standard input, UTF-8. UsageError: as `stdin_lines`."""
    lines = stdin_lines()

    def next_line(_prompt: str) -> str:
        try:
            return next(lines).rstrip("\n")
        except StopIteration:
            raise EOFError from None

    return LineReader(next_line)


def typed(history: History) -> Reader:
    """Reader of what is typed: with prompt_toolkit where a terminal shows it, else with Python's own line editing."""
    if not is_dumb() and (sys.stderr.isatty() or sys.stdout.isatty()):
        try:
            from q3edge.cli.talk.editor import Editor

            return Editor(history)
        except ModuleNotFoundError as error:
            say(f"note: the package {error.name} is missing: lines are edited one by one (pip install {error.name})")
    return LineReader(_edited_by_readline(history))


def _edited_by_readline(history: History) -> Callable[[str], str]:
    try:
        import readline
    except ImportError:  # Windows has an editing of its own
        readline = None  # type: ignore[assignment]
    if readline is not None:
        for message in history.messages:
            for line in message.split("\n"):
                readline.add_history(line)
        readline.set_completer_delims("\n")
        readline.set_completer(_complete)
        readline.parse_and_bind("tab: complete")

    def next_line(prompt: str) -> str:
        sys.stderr.flush()
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            say("")  # the line of the prompt ends
            raise
        history.add(line)
        return line

    return next_line


def _complete(_word: str, number: int) -> str | None:
    import readline

    line = readline.get_line_buffer()[: readline.get_endidx()]
    begun, found = completions(line)
    return line.removesuffix(begun) + found[number] if number < len(found) else None
