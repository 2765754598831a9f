"""`staged_directory`: a folder that appears complete under its name, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from q3edge.artifact.manifest import MANIFEST_FILE
from q3edge.errors import ResourceError, UsageError

_WRITE_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


@contextmanager
def staged_directory(final: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A new folder beside `final` that takes its name when the block ends well, and is removed otherwise.

    UsageError: `final` exists and `overwrite` is false, or `final` is, holds or lies in one of `inputs`.
    ResourceError: the disk is full or cannot be written. What stood under `final` stays until the new one is complete.
    """
    _check_output(final, overwrite, inputs)
    staging = final.parent / f".{final.name}.partial-{os.getpid()}"
    try:
        with _write_errors(final):
            shutil.rmtree(staging, ignore_errors=True)
            _create(staging, final)
            yield staging
            _promote(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _create(staging: Path, final: Path) -> None:
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise ResourceError(f"{final}: cannot be created ({error.strerror}); choose another folder") from error


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
    if not final.exists():
        staging.rename(final)
        return
    old = final.parent / f".{final.name}.old-{os.getpid()}"
    final.rename(old)
    staging.rename(final)
    shutil.rmtree(old, ignore_errors=True)
