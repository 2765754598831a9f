"""Errors that q3edge raises on purpose, each with an exit code.

A message is one line: what was found, what was expected, what to do next. The CLI prints it and exits with
`exit_code`; a traceback is shown only with `--debug`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from q3edge.plain_line import plain_line

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# None of these is a MemoryError: torch's "can't allocate memory: you tried to allocate N bytes", onnxruntime's "Failed
# to allocate memory for requested buffer of size N" and "std::bad_alloc", the loader's "failed to map segment from
# shared object", Python's "can't start new thread", whose stack finds no place.
_NO_MEMORY = re.compile(
    r"(?:can't|cannot|failed to|unable to) allocate|bad.?alloc|failed to map segment|can't start new thread",
    re.IGNORECASE,
)
_WANTED = re.compile(r"(?:allocate memory\D*|of size )(\d+)|allocate ([\d.]+ \w?i?B)\b", re.IGNORECASE)
_NO_FILES = (errno.EMFILE, errno.ENFILE)

GOES_ON = "the same command goes on from here"


class Q3EdgeError(Exception):
    """Base of all deliberate errors."""

    exit_code = 1

    def __str__(self) -> str:
        """Message as one line that is safe to print, whatever the names in it hold."""
        return plain_line(super().__str__())


class UsageError(Q3EdgeError):
    """The request cannot be carried out as asked (flags, sizes, an output that exists)."""

    exit_code = 2


class InputError(Q3EdgeError):
    """A file given to q3edge is broken, incomplete, unsupported or was tampered with."""

    exit_code = 3


class ResourceError(Q3EdgeError):
    """The machine cannot do it: disk full, not enough memory, no permission, a missing optional package."""

    exit_code = 4


class ValidationError(Q3EdgeError):
    """The result was produced but does not meet the accuracy asked for, or disagrees with the float model."""

    exit_code = 5


def shortage(error: BaseException, needs: str = "") -> ResourceError | None:
    """Recognise, in what any library raises, that memory or file handles ran out; None: it is something else.

    needs: what the work that failed takes in all, a phrase for the message.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_FILES:
        return ResourceError("too many files are open; allow more (ulimit -n)")
    if not isinstance(error, MemoryError) and number != errno.ENOMEM and not _NO_MEMORY.search(str(error)):
        return None
    wanted = _WANTED.search(str(error))
    size = "" if wanted is None else wanted[2] or f"{int(wanted[1]) / 2**30:.1f} GiB"
    parts = ["not enough memory" + (f": {size} more were needed" if size else "")]
    if needs:
        parts.append(needs)
    if limit := address_space():
        parts.append(f"this process may use {limit / 2**30:.1f} GiB (ulimit -v)")
    return ResourceError("; ".join([*parts, "close other programs or use a machine with more"]))


def unreadable(message: str, cause: BaseException) -> Q3EdgeError:
    """Error for input that could not be read because of `cause`: InputError, but ResourceError where memory ran out."""
    return shortage(cause) or InputError(message)


def address_space() -> int | None:
    """Limit of this process's address space in bytes; None: there is none."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


@contextmanager
def resumable(kept: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Note on a signal's exception that leaves the block that the same command goes on from here.

    kept: tells, when that happens, whether unfinished work is kept.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        if kept() and GOES_ON not in getattr(stopped, "__notes__", ()):
            stopped.add_note(GOES_ON)
        raise


def describe_error(error: BaseException) -> tuple[str, int]:
    """Describe any exception: one line of text, and the exit code."""
    text, code = _described(error)
    return plain_line(text), code


def _described(error: BaseException) -> tuple[str, int]:
    if isinstance(error, Q3EdgeError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{error.filename or 'a path'}: the name is too long for this system; give another", UsageError.exit_code
    if isinstance(error, OSError) and error.filename and error.errno in _REFUSED:
        return f"{error.filename}: {error.strerror}; check its permissions", ResourceError.exit_code
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        where = f" for {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; make room and run it again", ResourceError.exit_code
    if found := shortage(error):
        return str(found), found.exit_code
    return f"internal error: {type(error).__name__}: {error}", Q3EdgeError.exit_code
