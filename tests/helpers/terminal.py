"""`Terminal`: a pseudo-terminal in which q3edge runs, as in a window: typed keys go in, what is shown comes out."""

from __future__ import annotations

import codecs
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

READY = "\x1b[?2004h"  # pasted text is marked from here on: prompt_toolkit waits for a message
_HANGS = 100.0  # seconds
_START = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background inherit as ignored
{patch}
from q3edge.cli.start import entry_point
entry_point()
"""


class Terminal:
    """A running `q3edge` in a terminal of 80 columns; a context manager, whose end kills it."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None, patch: str = "") -> None:
        """Start; patch: Python code that runs before the command, in its process."""
        self._keyboard, screen = pty.openpty()
        termios.tcsetwinsize(screen, (24, 80))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(patch=patch), *arguments],
            stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
        )  # fmt: skip
        os.close(screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.shown = ""  # all of it
        self._read = 0  # characters of it that were expected

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._keyboard)

    @property
    def edits_lines(self) -> bool:
        """Whether the terminal itself echoes and edits lines, as programs find and leave it."""
        return bool(termios.tcgetattr(self._keyboard)[3] & termios.ICANON)

    def type(self, keys: str, *, at_prompt: bool = True) -> None:
        """Type keys: Enter is \\r, Ctrl-C \\x03. at_prompt: once the command edits lines, so that each is a key."""
        keys_read = 0  # looks in a row that found it so: between two prompts readline changes to and fro
        while at_prompt and keys_read < 10 and self._process.poll() is None:
            time.sleep(0.005)
            keys_read = 0 if self.edits_lines else keys_read + 1
        os.write(self._keyboard, keys.encode())

    def expect(self, text: str) -> str:
        """Wait until `text` is shown behind what was expected before; returns what came before it."""
        while (place := self.shown.find(text, self._read)) < 0:
            assert self._take(), f"the command ended without {text!r} behind {self.shown[self._read :]!r}"
        before, self._read = self.shown[self._read : place], place + len(text)
        return before

    def signal(self, number: int) -> None:
        """Send a signal to the command."""
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for the command's end; returns its exit code."""
        while self._take():
            pass
        return self._process.wait()

    def _take(self) -> bool:
        ready, _, _ = select.select([self._keyboard], [], [], _HANGS)
        assert ready, f"nothing comes behind {self.shown[self._read :]!r}"
        try:
            found = os.read(self._keyboard, 1 << 16)
        except OSError:  # nobody has the terminal open any more
            found = b""
        self.shown += self._decoder.decode(found)
        return bool(found)
