"""Reading of files that must be files: a FIFO or a device in a file's place is refused, not waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

BINARY: int = getattr(os, "O_BINARY", 0)  # for os.open: without it, Windows changes line ends


def open_regular(path: Path) -> int:
    """Open a file for reading and return its descriptor; links are followed.

    OSError: it is missing or cannot be read, or is no regular file (EINVAL; a folder: EISDIR).
    """
    # Without O_NONBLOCK the opening of a FIFO waits for a writer. Windows has neither.
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | BINARY)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def check_regular(path: Path) -> None:
    """Check a file that a library will open by its path; OSError as `open_regular`."""
    os.close(open_regular(path))


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Read a whole file of at most `most` bytes; OSError as `open_regular`, and for a larger one (EFBIG)."""
    with open(open_regular(path), "rb") as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes", str(path))
    return content
