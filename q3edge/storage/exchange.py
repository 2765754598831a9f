"""Exchange of two names in one step, where the system supports it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: names are relative to the working folder
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders in one step (Linux, renameat2); False: nothing was changed."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # absent from old C libraries
    return rename is not None and rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0
