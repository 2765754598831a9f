"""`make_room`: what sessions keep on the disk stays within bounds, and what goes is said."""

from __future__ import annotations

from pathlib import Path

from q3edge import progress
from q3edge.errors import ResourceError
from q3edge.storage import kept_folder


def make_room(kind: str, keep: Path, most: int | None = None) -> None:
    """Remove entries of a kind as `storage.kept_folder.make_room` does, with a note for each; `keep` stays."""
    try:
        for entry, reason in kept_folder.make_room(kind, keep, most):
            progress.note(f"note: {entry.path}: removed, {reason}")
    except ResourceError as error:  # what is asked for needs no room yet
        progress.note(f"note: {error}")
