"""`JsonLines`: a journal of JSON values, one per line, each with its checksum and durable before the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from q3edge.storage.raw_bytes import read_up_to
from q3edge.storage.regular_files import BINARY
from q3edge.storage.sealed_json import sealed, unsealed
from q3edge.storage.whole_files import ADVICE, writable


class JsonLines:
    """Journal of values in one file; use as a context manager. Several processes may append to it.

    Lines that are incomplete (after a kill) or damaged are skipped. ResourceError, with `advice`, from every write: the
    disk is full or refuses.
    """

    def __init__(self, path: Path, advice: str = ADVICE) -> None:
        self._path, self._advice = path, advice
        self._descriptor = -1

    def __enter__(self) -> Self:
        with writable(self._path, self._advice):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o644)
            size = os.fstat(self._descriptor).st_size
            if size and read_up_to(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")  # ends a line that was cut short
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and keep it."""
        os.close(self._descriptor)

    def values(self) -> Iterator[Any]:
        """Read every undamaged value, in the order of the file."""
        for line in self._path.read_bytes().split(b"\n"):
            try:
                yield unsealed(line)
            except ValueError:
                continue

    def append(self, value: object) -> None:
        """Append a value and flush it to disk."""
        line = memoryview(f"{sealed(value)}\n".encode())
        with writable(self._path, self._advice):
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)

    def discard(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)
