"""How full a folder is that a program writes in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MAX_ENTRIES, MAX_BYTES = 1000, 64 << 20


def is_overfull(path: str | Path) -> bool:
    """Tell whether a folder holds more than MAX_ENTRIES entries or MAX_BYTES on the disk, or hides what it holds."""
    folders, entries, size = [os.fspath(path)], 0, 0
    try:
        while folders:
            with os.scandir(folders.pop()) as found:
                for entry in found:
                    status = entry.stat(follow_symlinks=False)
                    entries, size = entries + 1, size + 512 * status.st_blocks
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(entry.path)
                    if entries > MAX_ENTRIES or size > MAX_BYTES:
                        return True
    except FileNotFoundError:  # the program removes it just now
        return False
    except OSError:  # unreadable, or the path is too long
        return True
    return False
