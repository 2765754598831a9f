"""`History`: messages that were typed, in this conversation and earlier ones, kept in a file of the user's."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from q3edge.errors import ResourceError
from q3edge.storage.regular_files import BINARY, open_regular
from q3edge.storage.whole_files import written_whole
from q3edge.terminal import say

MOST_MESSAGES = 1000
_MOST_BYTES = 1 << 20  # of the file that are read
_LONGEST = 10_000  # characters of a message that is kept
_MODE = 0o600


def history_file() -> Path | None:
    """Path of the history: q3edge/chat-history.jsonl in $XDG_STATE_HOME, else in ~/.local/state; None: no home."""
    shared, home = os.environ.get("XDG_STATE_HOME", ""), os.path.expanduser("~")
    if not os.path.isabs(shared) and not os.path.isabs(home):
        return None
    state = Path(shared) if os.path.isabs(shared) else Path(home, ".local", "state")
    return state / "q3edge" / "chat-history.jsonl"


class History:
    """Messages that were typed, oldest first, at most 1000 of earlier conversations: one JSON text a line in the file.

    Only the user can read the file. Where it cannot be used, a note says so once, and the conversation goes on.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file; None: nothing is kept."""
        self._path = path
        self.messages: list[str] = []
        with self._left_alone_if_unusable():
            self._read()

    def add(self, message: str) -> None:
        """Add a message, but one that is blank or that came just before; a very long one is not kept."""
        if not message.strip() or message in self.messages[-1:]:
            return
        self.messages.append(message)
        if self._path is not None and len(message) <= _LONGEST:
            with self._left_alone_if_unusable():
                _append(self._path, _line(message))

    @contextmanager
    def _left_alone_if_unusable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ResourceError) as error:
            say(f"note: what you type is not kept: {self._path}: {getattr(error, 'strerror', None) or error}")
            self._path = None

    def _read(self) -> None:
        if self._path is None or not os.path.lexists(self._path):
            return
        with open(open_regular(self._path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _MOST_BYTES, 0))
            lines = file.read().split(b"\n")[size > _MOST_BYTES :]  # the first is cut
        for line in lines:
            with suppress(ValueError, RecursionError):  # a line that a full disk cut
                message = json.loads(line)
                self.messages += [message] if isinstance(message, str) else []
        del self.messages[:-MOST_MESSAGES]
        if len(lines) > 2 * MOST_MESSAGES or size > _MOST_BYTES:
            _rewrite(self._path, self.messages)


def _line(message: str) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | BINARY
    descriptor = os.open(path, flags, _MODE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _rewrite(path: Path, messages: list[str]) -> None:
    with written_whole(path) as file:
        if hasattr(os, "fchmod"):  # not on Windows
            os.fchmod(file.fileno(), _MODE)
        file.write(b"".join(map(_line, messages)))
