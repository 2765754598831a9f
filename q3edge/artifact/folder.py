"""`staged_directory`: a folder that appears complete under its name, or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from q3edge.artifact.manifest import MANIFEST_FILE
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.storage.exchange import exchange
from q3edge.storage.locks import output_lock
from q3edge.storage.whole_files import partial_folder, writable

_WRITE_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
_MODEL_FILES = {".safetensors", ".gguf", ".json", ".jinja", ".toml", ".txt"}
_NAME_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


class InputState:
    """State of every file of a model in some folders (or files), as found now: inode, size, time of its last change."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders, self._before = folders, _states(folders)

    def check_unchanged(self) -> None:
        """Raise InputError for a file that was overwritten, replaced or removed since; new ones were not read."""
        now = _states(self._folders)
        if changed := next((path for path, state in self._before.items() if now.get(path) != state), None):
            raise InputError(f"{changed}: was changed while it was read: the result would mix two models; run it again")


def _states(folders: tuple[Path, ...]) -> dict[Path, tuple[int, ...]]:
    found: dict[Path, tuple[int, ...]] = {}
    for path in (path for folder in folders for path in (folder.iterdir() if folder.is_dir() else [folder])):
        if path.suffix in _MODEL_FILES:
            with suppress(OSError):  # gone meanwhile, or a dangling link
                status = path.stat()
                found[path] = status.st_ino, status.st_size, status.st_mtime_ns
    return found


@contextmanager
def staged_directory(final: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Make a folder beside `final` that takes its name when the block ends without an error, else is removed.

    UsageError: `final` exists, or does at the end, and `overwrite` is false or q3edge did not write it; or `final` is,
    holds or lies in one of `inputs`. InputError: a file in `inputs` changed meanwhile.
    ResourceError: the disk is full or cannot be written, or another process, which the message names, writes `final`.
    An old `final` stays until the new one is complete.
    Leftovers of killed processes are removed, or put back where they were killed while replacing `final`.
    """
    _check_place(final, inputs)
    state = InputState(inputs)
    with ExitStack() as stack:
        stack.enter_context(output_lock(final))
        with writable(final, "choose another folder"):
            _put_back(final)
        if _is_taken(final):
            _check_replaceable(final, overwrite)
        with writable(final, "choose another folder"):
            staging = stack.enter_context(partial_folder(final))
        with _write_errors(final):
            yield staging
            state.check_unchanged()
            _promote(staging, final, overwrite)


def _check_place(final: Path, inputs: tuple[Path, ...]) -> None:
    target = final.resolve()
    try:
        in_the_way = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
    except OSError as error:
        raise UsageError(f"{final}: cannot be a folder ({error.strerror}); choose another output") from None
    if in_the_way:
        raise UsageError(f"{final}: {in_the_way} is not a folder; choose another output")
    for source in (path.resolve() for path in inputs):
        if target == source or source in target.parents or target in source.parents:
            raise UsageError(f"{final}: the output overlaps the input {source}; choose another folder")


def _check_replaceable(final: Path, overwrite: bool) -> None:
    if not overwrite:
        raise UsageError(f"{final}: exists already; choose another folder or add --overwrite")
    if not _is_replaceable(final):
        raise UsageError(f"{final}: exists and was not written by q3edge; --overwrite replaces only q3edge folders")


def _is_replaceable(folder: Path) -> bool:
    """Tell whether q3edge wrote the folder, or it is empty."""
    return folder.is_dir() and ((folder / MANIFEST_FILE).exists() or not any(folder.iterdir()))


@contextmanager
def _write_errors(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _WRITE_FAILURES:
            raise ResourceError(
                f"{final}: cannot be written ({error.strerror}); free space or choose another disk"
            ) from error
        raise


def _promote(staging: Path, final: Path, overwrite: bool) -> None:
    """Give `staging` its final name; an old folder of that name is removed, here or later as `staging`.

    What stands there is judged again: it may have come since the start.
    """
    old = final.parent / f".{final.name}.old-{os.getpid()}"
    while not _take_free_name(staging, final):
        _check_replaceable(final, overwrite)
        if not exchange(staging, final):
            final.rename(old)
        elif _is_replaceable(staging):
            return
        else:  # it came between the check and the exchange
            exchange(staging, final)
    shutil.rmtree(old, ignore_errors=True)


def _take_free_name(staging: Path, final: Path) -> bool:
    """Rename to a name that is free; False: it is not. A folder's renaming replaces at most an empty folder."""
    if _is_taken(final):
        return False
    try:
        staging.rename(final)
    except OSError as error:
        if error.errno not in _NAME_TAKEN:
            raise
        return False
    return True


def _is_taken(name: Path) -> bool:
    return os.path.lexists(name)


def _put_back(final: Path) -> None:
    """Restore the old folder where a process was killed between the two renames of `_promote`."""
    for old in final.parent.glob(f".{glob.escape(final.name)}.old-*"):
        if _is_taken(final):
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(final)
