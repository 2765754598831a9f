"""`StreamedFile`: a file of named parts whose sizes are known beforehand, each filled from its beginning to its end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from q3edge.storage.raw_bytes import write_at
from q3edge.storage.regular_files import BINARY


class StreamedFile:
    """Writer of a new file: its header at once, then blocks of any part in any order; none is held in memory.

    parts: name -> first byte and the one behind the last, counted from the end of the header. size: of all parts with
    what lies between and behind them (None: to the end of the last). OSError passes through (a full disk is reported by
    the caller).
    """

    def __init__(
        self, path: Path, header: bytes, parts: Mapping[str, tuple[int, int]], size: int | None = None
    ) -> None:
        self.path = path
        self._start = len(header)
        self._cursor = {name: begin for name, (begin, _) in parts.items()}
        self._end = {name: end for name, (_, end) in parts.items()}
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        write_at(self._fd, header, 0)
        if size is not None:
            os.ftruncate(self._fd, self._start + size)

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write the next bytes of a part. ValueError: more than it has."""
        if self._cursor[name] + len(content) > self._end[name]:
            raise ValueError(f"{name}: more rows than its shape")
        write_at(self._fd, content, self._start + self._cursor[name])
        self._cursor[name] += len(content)

    def close(self) -> None:
        """Finish the file. ValueError: a part is incomplete."""
        self._close_fd()
        if incomplete := [name for name in self._end if self._cursor[name] != self._end[name]]:
            raise ValueError(f"{self.path}: {len(incomplete)} tensors are incomplete, the first is {incomplete[0]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._close_fd()  # the error under way matters more than the unfinished parts

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
