"""Errors that q3edge raises on purpose, each with an exit code.

A message is one line: what was found, what was expected, what to do next. The CLI prints it and exits with
`exit_code`; a traceback is shown only with `--debug`.
"""

from __future__ import annotations

import errno
import re

from q3edge.plain_line import plain_line

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# torch's "DefaultCPUAllocator: can't allocate memory: you tried to allocate N bytes", onnxruntime's "Failed to allocate
# memory for requested buffer of size N": neither is a MemoryError.
_NO_MEMORY = re.compile(r"(?:can't|failed to) allocate memory\D*(\d*)", re.IGNORECASE)


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
    refused = _NO_MEMORY.search(str(error))
    if refused or isinstance(error, MemoryError):
        missing = f": {int(refused[1]) / 2**30:.1f} GiB more were needed" if refused and refused[1] else ""
        return f"not enough memory{missing}; close other programs or use a machine with more", ResourceError.exit_code
    return f"internal error: {type(error).__name__}: {error}", Q3EdgeError.exit_code
