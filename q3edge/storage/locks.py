"""Locks that end with their process: they tell leftovers of killed processes from files being written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def take_lock(descriptor: int) -> bool:
    """Lock an open file or folder until its descriptor is closed; False: another open descriptor of it has the lock.

    True as well where the system or the disk knows no such locks.
    """
    if sys.platform == "win32":
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
    return take_lock(descriptor) and path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock an existing file or folder during the block; yields False if it is another's, is gone, or on Windows."""
    if sys.platform == "win32":
        yield False
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield take_lock_of(path, descriptor)
    finally:
        os.close(descriptor)
