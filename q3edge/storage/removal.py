"""Removal of what programs of others wrote: folders nested, unreadable or full of links, files, links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def remove_folder(path: str | Path) -> None:
    """Remove a folder that no process changes any more, nested as deep as it may be; OSError: something stays.

    One open folder and one step at a time: neither recursion nor the length of a path nor open files bound the depth.
    """
    if os.open not in os.supports_dir_fd:  # Windows
        shutil.rmtree(path)
        return
    os.chmod(path, 0o700)
    here, names = os.open(path, _FOLDER), list[str]()
    try:
        while True:
            if (inner := _remove_files(here)) is not None:
                os.chmod(inner, 0o700, dir_fd=here)
                here = _step(here, inner)
                names.append(inner)
            elif names:
                here = _step(here, "..")
                os.rmdir(names.pop(), dir_fd=here)
            else:
                break
    finally:
        os.close(here)
    os.rmdir(path)


def remove_path(path: Path) -> None:
    """Remove what is at a path: a folder with its content, a file, a link, or nothing. OSError: the disk refuses."""
    if path.is_dir() and not path.is_symlink():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)


def _remove_files(here: int) -> str | None:
    """Remove what stands before the first folder in an open folder; returns that folder's name, None without one."""
    with os.scandir(here) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=here)
    return None


def _step(here: int, name: str) -> int:
    """Open a folder next to, or above, an open one, which is closed."""
    there = os.open(name, _FOLDER, dir_fd=here)
    os.close(here)
    return there
