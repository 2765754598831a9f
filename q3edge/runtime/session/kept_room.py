"""What sessions keep on the disk stays within bounds, and what goes, or is damaged, is said."""

from __future__ import annotations

from pathlib import Path

from q3edge import progress
from q3edge.errors import InputError, Q3EdgeError, ResourceError
from q3edge.storage import kept_folder
from q3edge.storage.removal import remove_path


def make_room(kind: str, keep: Path, most: int | None = None) -> None:
    """Remove entries of a kind as `storage.kept_folder.make_room` does, with a note for each; `keep` stays."""
    try:
        for entry, reason in kept_folder.make_room(kind, keep, most):
            progress.note(f"note: {entry.path}: removed, {reason}")
    except ResourceError as error:  # what is asked for needs no room yet
        progress.note(f"note: {error}")


def remove_damaged(folder: Path) -> Q3EdgeError:
    """Remove an entry that is damaged, which can be made again; returns the error that says so, or that it stays."""
    try:
        remove_path(folder)
    except OSError as error:
        return ResourceError(
            f"{folder}: is damaged and cannot be removed ({error.strerror or error}); remove it, or set Q3EDGE_CACHE "
            "to another folder"
        )
    return InputError(f"{folder}: was damaged and is removed; the same command makes it again")
