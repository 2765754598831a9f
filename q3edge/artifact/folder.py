"""`staged_directory`: a folder that appears complete under its name, or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from q3edge.artifact.manifest import MANIFEST_FILE
from q3edge.errors import ResourceError, UsageError
from q3edge.storage.exchange import exchange
from q3edge.storage.whole_files import partial_folder, writable

_WRITE_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


@contextmanager
def staged_directory(final: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Make a folder beside `final` that takes its name when the block ends without an error, else is removed.

    UsageError: `final` exists and `overwrite` is false, or `final` is, holds or lies in one of `inputs`.
    ResourceError: the disk is full or cannot be written. An old `final` stays until the new one is complete.
    Leftovers of killed processes are removed, or put back where they were killed while replacing `final`.
    """
    _put_back(final)
    _check_output(final, overwrite, inputs)
    with ExitStack() as stack:
        with writable(final, "choose another folder"):
            staging = stack.enter_context(partial_folder(final))
        with _write_errors(final):
            yield staging
            _promote(staging, final)


def _check_output(final: Path, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    target = final.resolve()
    if in_the_way := next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None):
        raise UsageError(f"{final}: {in_the_way} is not a folder; choose another output")
    for source in (path.resolve() for path in inputs):
        if target == source or source in target.parents or target in source.parents:
            raise UsageError(f"{final}: the output overlaps the input {source}; choose another folder")
    if os.path.lexists(final):
        if not overwrite:
            raise UsageError(f"{final}: exists already; choose another folder or add --overwrite")
        if not final.is_dir() or (any(final.iterdir()) and not (final / MANIFEST_FILE).exists()):
            raise UsageError(f"{final}: exists and was not written by q3edge; --overwrite replaces only q3edge folders")


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


def _promote(staging: Path, final: Path) -> None:
    """Give `staging` its final name; an old folder of that name is removed, here or later as `staging`."""
    if not final.exists():
        staging.rename(final)
    elif not exchange(staging, final):
        old = final.parent / f".{final.name}.old-{os.getpid()}"
        final.rename(old)
        staging.rename(final)
        shutil.rmtree(old, ignore_errors=True)


def _put_back(final: Path) -> None:
    """Restore the old folder where a process was killed between the two renames of `_promote`."""
    for old in final.parent.glob(f".{glob.escape(final.name)}.old-*"):
        if os.path.lexists(final):
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(final)
