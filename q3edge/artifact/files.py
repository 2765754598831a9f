"""Files of a folder: size, sha256, and the check that one really lies inside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from q3edge.errors import InputError


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Record of one file: size in bytes and hex sha256."""

    size: int
    sha256: str


def contained_file(folder: Path, name: str) -> Path:
    """Path folder/name, checked to be a plain file inside `folder` (no .., link, or shared inode); else InputError."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
        raise InputError(f"{folder}: file name {name!r} leads out of the folder; refused")
    try:
        status = path.lstat()
    except OSError:
        raise InputError(f"{path}: missing; make or copy the folder again") from None
    if path.is_symlink() or not path.is_file() or folder.resolve() not in path.resolve().parents:
        raise InputError(f"{path}: expected a plain file inside the folder, found a link or something else; refused")
    if status.st_nlink > 1:
        raise InputError(f"{path}: is a hard link to a file elsewhere; refused (copy the folder instead of linking it)")
    return path


def file_record(path: Path) -> FileRecord:
    """Read size and sha256 of a file."""
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
