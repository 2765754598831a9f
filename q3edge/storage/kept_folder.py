"""Folder of what is kept between runs and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def kept_folder(kind: str) -> Path:
    """Folder for one kind of entries: in $Q3EDGE_CACHE, else in $XDG_CACHE_HOME/q3edge, else in ~/.cache/q3edge."""
    if own := os.environ.get("Q3EDGE_CACHE"):
        return Path(own).expanduser() / kind
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "q3edge" / kind
