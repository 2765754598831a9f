"""What is kept between runs and can be made again: its folder, its entries, and their removal."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from q3edge.errors import ResourceError, UsageError
from q3edge.plain_line import counted
from q3edge.storage.locks import output_lock
from q3edge.storage.removal import remove_path
from q3edge.storage.sealed_json import read_sealed, write_sealed
from q3edge.storage.whole_files import partial_path, remove_all_leftovers, writable

ADVICE = "free space (`q3edge cache --clear` does), check its permissions, or set Q3EDGE_CACHE to another folder"
# Kinds, and how many folders deep below their own their entries lie.
KINDS: Mapping[str, int] = {"kernels": 1, "experts": 1, "evaluations": 2, "verified": 1}
UNUSED_DAYS = 30  # after which `make_room` removes an entry
_DAY = 24 * 3600
_ORIGIN = "model.json"  # in an entry
_WITH_ORIGIN = ("kernels", "experts")
_MOST, _PART_OF_DISK = 20 * 10**9, 10  # bytes that `make_room` leaves of a kind, and the part of the disk


@dataclass(frozen=True, slots=True)
class KeptEntry:
    """Entry of a kind: a file or folder at `path`, whose name below the kind's folder is `name`.

    size: bytes. used: when it was last written, or marked as used; seconds since the epoch. of: the folder of the model
    that it was made of; empty where that is not known.
    """

    kind: str
    name: str
    path: Path
    size: int
    used: float
    of: str = ""


def kept_folder(kind: str) -> Path:
    """Folder for one kind of entries: in $Q3EDGE_CACHE, else in $XDG_CACHE_HOME/q3edge, else in ~/.cache/q3edge."""
    return kept_root() / kind


def kept_root() -> Path:
    """Folder of all kinds. UsageError: nobody knows where the user's folder is."""
    shared = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own := os.environ.get("Q3EDGE_CACHE"):
            return Path(own).expanduser()
        # A relative one is to be ignored (XDG Base Directory Specification).
        return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "q3edge"
    except RuntimeError:
        raise UsageError("your home folder is not known: set Q3EDGE_CACHE to a folder for what is kept") from None


def keep_origin(entry: Path, model: Path) -> None:
    """Write into an entry of which model's folder it was made, for people; where it cannot be, nothing is."""
    with suppress(ResourceError):
        if entry.is_dir():  # else another process has removed it
            write_sealed(entry / _ORIGIN, str(model.absolute()), ADVICE)


def kept_entries(kind: str) -> list[KeptEntry]:
    """List the entries of a kind, the longest unused first; without what a process is writing."""
    folder = kept_folder(kind)
    found = (_entry(kind, folder, path) for path in _below(folder, KINDS[kind]))
    return sorted(filter(None, found), key=lambda entry: entry.used)


def remove_entry(entry: KeptEntry) -> None:
    """Remove an entry, whole; processes that have its files open or mapped are not harmed.

    ResourceError: another process is making it, or the disk refuses.
    """
    with output_lock(entry.path, advice="check its permissions"), writable(entry.path, "check its permissions"):
        hidden = partial_path(entry.path)  # so that nobody finds half of it
        with suppress(FileNotFoundError):  # another process was faster
            entry.path.rename(hidden)
            remove_path(hidden)


def remove_all(kinds: Iterable[str]) -> list[KeptEntry]:
    """Remove all entries of some kinds, and what killed processes left; returns what is gone.

    ResourceError, once the others are gone: an entry stays, and why.
    """
    gone, stays = list[KeptEntry](), list[str]()
    for kind in kinds:
        for entry in kept_entries(kind):
            try:
                remove_entry(entry)
            except ResourceError as error:
                stays.append(str(error))
            else:
                gone.append(entry)
        _remove_unfinished(kind)
    if stays:
        size = sum(entry.size for entry in gone)
        raise ResourceError(f"{'; '.join(stays)} (gone: {counted(len(gone), 'entry', 'entries')}, {size / 1e6:.1f} MB)")
    return gone


def _remove_unfinished(kind: str) -> None:
    """Remove what killed processes left of a kind, and folders that are empty."""
    folder = kept_folder(kind)
    for inner in [*(_below(folder, 1) if KINDS[kind] > 1 else ()), folder]:
        remove_all_leftovers(inner)
        with suppress(OSError):
            inner.rmdir()


def make_room(kind: str, keep: Path, most: int | None = None) -> Iterator[tuple[KeptEntry, str]]:
    """Remove entries that were not used for UNUSED_DAYS, and the longest unused until all have at most `most` bytes.

    keep: an entry that stays, there or not yet. most: None: 20 GB, or a tenth of the disk if that is less. Yields each
    that is removed, and why. ResourceError: the disk refuses.
    """
    remove_all_leftovers(kept_folder(kind))
    entries = kept_entries(kind)
    left = sum(entry.size for entry in entries)
    most = _most(kept_folder(kind)) if most is None else most
    for entry in entries:
        reason = ""
        if entry.used < time.time() - UNUSED_DAYS * _DAY:
            reason = f"not used for {UNUSED_DAYS} days"
        elif left > most:
            reason = f"{left / 1e9:.1f} GB are kept there, at most {most / 1e9:.1f} are to be"
        if reason and entry.path != keep:
            remove_entry(entry)
            left -= entry.size
            yield entry, reason


def _most(folder: Path) -> int:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return min(_MOST, shutil.disk_usage(existing).total // _PART_OF_DISK)


def _below(folder: Path, depth: int) -> list[Path]:
    """Files and folders `depth` folders below, in order of their names; hidden ones are unfinished, or locks."""
    found = [folder]
    for _ in range(depth):
        with suppress(OSError):
            found = [path for each in found if each.is_dir() for path in sorted(each.iterdir())]
        found = [path for path in found if not path.name.startswith(".")]
    return [path for path in found if path != folder]


def _entry(kind: str, folder: Path, path: Path) -> KeptEntry | None:
    """Entry at `path`; None: another process has removed it."""
    files = [inner for inner in path.rglob("*") if inner.is_file()] if path.is_dir() else [path]
    try:
        facts = [file.lstat() for file in files] or [path.lstat()]
    except OSError:
        return None
    size = sum(each.st_size for each in facts) if files else 0
    of = read_sealed(path / _ORIGIN) if kind in _WITH_ORIGIN else None
    used = max(each.st_mtime for each in facts)
    return KeptEntry(kind, path.relative_to(folder).as_posix(), path, size, used, of if isinstance(of, str) else "")
