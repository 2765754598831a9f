"""Rows chosen by --only: a glob that chooses none is a mistake, not an empty table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NoReturn


def chosen(names: Sequence[str], globs: Sequence[str] | None) -> set[str]:
    """Names that a glob matches; without globs all of them.

    Where a glob matches none it exits with code 2 and tells the names that there are.
    """
    if globs is None:
        return set(names)
    found: set[str] = set()
    for glob in globs:
        matched = {name for name in names if fnmatchcase(name, glob)}
        if not matched:
            _refuse(glob, names)
        found |= matched
    return found


def _refuse(glob: str, names: Sequence[str]) -> NoReturn:
    print(f"--only {glob}: matches no row; there are:\n  " + "\n  ".join(names), file=sys.stderr)
    sys.exit(2)
