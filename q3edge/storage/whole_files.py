"""Atomically written files and folders: written beside their place under another name, then renamed.

A partial file or folder is locked while it is written. Without a lock it is the leftover of a killed process, and the
next writer of that name removes it.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from q3edge.errors import ResourceError
from q3edge.storage.locks import HAS_LOCKS, locked, take_lock_of
from q3edge.storage.removal import remove_folder, remove_path

ADVICE = "free space or choose another folder"
_PARTIAL = re.compile(r"^\.(.+)\.partial-\d+$")


def partial_path(path: Path) -> Path:
    """Path under which this process writes what will be `path`."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def intended_path(path: Path) -> Path:
    """Path that will be of what is written at `path`, or in a folder that is: without the names of `partial_path`."""
    return Path(*(_PARTIAL.sub(r"\1", part) for part in path.parts))


def make_read_only(path: Path) -> None:
    """Guard a file that processes map, which end where it is cut, from what would write into it by mistake.

    It can be removed nonetheless; on Windows it could not, and stays as it is.
    """
    if os.name == "posix":
        path.chmod(0o444)


def remove_leftovers(path: Path) -> None:
    """Remove partial files and folders of `path`, and of names `path.*`, that no process is writing."""
    _remove(path.parent, f".{glob.escape(path.name)}.*partial-*")


def remove_all_leftovers(folder: Path) -> None:
    """Remove all partial files and folders in `folder` that no process is writing, and lock files that none holds.

    Each is locked as it goes: who has opened a lock file meanwhile finds, once it has the lock, that the name is gone.
    """
    for pattern in (".*.partial-*", ".*.lock"):
        _remove(folder, pattern)


@contextmanager
def writable(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn an OSError inside the block into a ResourceError that names `path` and ends with `advice`."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error


@contextmanager
def written_whole(path: Path, advice: str = ADVICE) -> Iterator[BufferedRandom]:
    """Open a file that replaces `path` when the block ends without an error; missing folders are made.

    The content is on the disk before the renaming. ResourceError, with `advice`: the system refuses to write.
    """
    with writable(path, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        partial = partial_path(path)
        with _opened(partial) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise


def write_whole(path: Path, content: str | bytes, advice: str = ADVICE) -> None:
    """Replace the file atomically by `content`, text in UTF-8. ResourceError, with `advice`: it cannot be written."""
    with written_whole(path, advice) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder beside `path`, to be renamed or used for a while; removed at the end if still there."""
    remove_leftovers(path)
    partial = partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            while not partial.exists():  # again, if another process removed it as a leftover before it was locked
                partial.mkdir()
                with suppress(FileNotFoundError):
                    stack.enter_context(locked(partial))
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Make an empty folder for temporary files, removed at the end.

    Those of the same user that killed processes left are removed.
    """
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix))
            if stack.enter_context(locked(folder)) or not HAS_LOCKS:
                break  # else another process removed it as a leftover before it was locked
        try:
            _remove(folder.parent, f"{glob.escape(prefix)}*")
            yield folder
        finally:
            with suppress(OSError):
                remove_folder(folder)


def _opened(partial: Path) -> BufferedRandom:
    """Make a locked file; repeated if another process removed it as a leftover before it was locked."""
    while True:
        file = partial.open("w+b")
        if take_lock_of(partial, file.fileno()):
            return file
        file.close()


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        with suppress(OSError), locked(path) as free:  # OSError: another process was faster
            if free:
                remove_path(path)
