"""Locks that end with their process: on what is being written, so that leftovers of killed processes are known by
having none, and on an output, so that a second command is told who is at work."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from pathlib import Path

from q3edge.errors import ResourceError, UsageError

try:
    import fcntl
except ImportError:
    HAS_LOCKS = False  # Windows
else:
    HAS_LOCKS = True

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_held: ContextVar[frozenset[Path]] = ContextVar("held outputs", default=frozenset())


def take_lock(descriptor: int) -> bool:
    """Lock an open file or folder until its descriptor is closed; False: another open descriptor of it has the lock.

    True as well where the system or the disk knows no such locks.
    """
    if not HAS_LOCKS:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network disk without locks
        return True
    return True


def take_lock_of(path: Path, descriptor: int) -> bool:
    """Lock as `take_lock` does; False as well where `path` no longer names what was opened."""
    try:
        return take_lock(descriptor) and os.path.samestat(path.stat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock an existing file or folder during the block; yields False if it is another's, is gone, or on Windows."""
    if not HAS_LOCKS:
        yield False
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield take_lock_of(path, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def output_lock(
    output: Path, *, wait: bool = False, lenient: bool = False, advice: str = "choose another folder"
) -> Iterator[None]:
    """Hold an output, file or folder, during the block; inside of it the same output may be held again.

    The lock is the file `.NAME.lock` beside it, which is gone afterwards; so are folders made for it and left empty.
    wait: for another process. lenient: without a lock where the place is no folder, which the writer
    explains. UsageError: the name is too long. ResourceError: another process holds the output, and the message names
    it; or the place cannot be written, with `advice`.
    """
    place = output.absolute()
    if place in _held.get():
        yield
        return
    path = place.with_name(f".{place.name}.lock")
    made: list[Path] = []
    token: Token[frozenset[Path]] | None = None
    try:
        try:
            made += [folder for folder in place.parents if not folder.exists()]
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _hold(path, output, wait=wait)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UsageError(f"{output}: the name is too long for this disk; choose a shorter one") from None
            if not lenient or error.errno in _REFUSED:
                raise ResourceError(f"{output}: cannot be written ({error.strerror}); {advice}") from error
            yield
            return
        except (KeyboardInterrupt, SystemExit):  # a signal, once the file was made
            _remove_own(path)
            raise
        try:
            token = _held.set(_held.get() | {place})
            yield
        finally:
            if token is not None:
                _held.reset(token)
            with suppress(OSError):  # Windows removes no open file
                path.unlink()
            os.close(descriptor)
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def hold(path: Path, subject: Path) -> int:
    """Lock the file `path`, made if missing, and write this process into it; returns its open descriptor.

    ResourceError: another process, which the message names, holds it and so works on `subject`.
    """
    return _hold(path, subject, wait=False)


def _remove_own(path: Path) -> None:
    """Remove a lock file that this process wrote, or that nobody holds; another's stays."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            if os.read(descriptor, 64) == _name_of_this_process() or take_lock(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def _name_of_this_process() -> bytes:
    return f"process {os.getpid()}".encode()


def _hold(path: Path, subject: Path, *, wait: bool) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            held = take_lock(descriptor)
            if held and take_lock_of(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, _name_of_this_process())
                return descriptor
            owner = os.read(descriptor, 64).decode(errors="replace").strip() or "another process"
        except (KeyboardInterrupt, SystemExit):  # a signal: the lock must not outlive it
            os.close(descriptor)
            raise
        os.close(descriptor)
        if held:  # its holder ended and removed it between the two
            continue
        if not wait:
            raise ResourceError(f"{subject}: {owner} is working on this output; wait for it or stop it")
        time.sleep(0.1)
