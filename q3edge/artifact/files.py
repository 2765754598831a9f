"""Files of a folder: size and sha256, and which of them may be read: links count by what they lead to."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from q3edge.errors import InputError, unreadable
from q3edge.storage.regular_files import open_regular


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Record of one file: size in bytes and hex sha256."""

    size: int
    sha256: str


def contained_file(folder: Path, name: str) -> Path:
    """Path folder/name, checked to be a file by a name inside `folder`; else InputError.

    It may be a link (the hub's cache is made of them), so its content is to be trusted by its sha256 alone;
    `own_file` is for content without one.
    """
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
        raise InputError(f"{folder}: file name {name!r} leads out of the folder; refused")
    if not os.path.lexists(path):
        raise InputError(f"{path}: missing; make or copy the folder again")
    if not os.path.isfile(path):
        raise InputError(f"{path}: expected a file, found a folder, a dangling link or something else; refused")
    return path


def own_file(folder: Path, name: str) -> Path:
    """Path folder/name of content that no sha256 covers: a file of this folder, also behind a link; else InputError.

    A link may lead to another file of the folder, or from a snapshot in the hub's cache to the cache's own blobs.
    """
    path = contained_file(folder, name)
    home, target = folder.resolve(), path.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if home not in target.parents and target.parent != blobs:
        raise InputError(
            f"{path}: is a link out of the folder, and its content is not what the folder's manifest records; "
            "put a copy of the file in its place"
        )
    return path


def folder_name(folder: Path) -> str:
    """Display name of a folder: its last name, or ORG/NAME of a snapshot in the hub's cache, which is a revision."""
    return hub_id(folder) or folder.resolve().name


def shown_path(folder: Path) -> str:
    """Path of a folder as it was given; of a snapshot in the hub's cache, ORG/NAME."""
    return hub_id(folder) or str(folder)


def hub_id(folder: Path) -> str:
    """ORG/NAME of a snapshot in the hub's cache; empty for other folders."""
    home = folder.resolve()
    repository = home.parents[1].name if home.parent.name == "snapshots" else ""
    return repository.removeprefix("models--").replace("--", "/", 1) if repository.startswith("models--") else ""


def file_record(path: Path) -> FileRecord:
    """Read size and sha256 of a file. InputError: it cannot be read, or is no regular file."""
    try:
        with open(open_regular(path), "rb") as file:
            return FileRecord(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        raise unreadable(message, error) from None
