"""Input files of calibration: paths and folders given by the user, or the built-in set. `readers` parses them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePath

from q3edge.areas import area_named
from q3edge.errors import InputError
from q3edge.storage.regular_files import read_regular

JSON_LINES = (".jsonl", ".json-lines", ".jsonlines", ".ndjson")
EXTENSIONS = (".txt", ".md", *JSON_LINES, ".csv", ".tsv", ".parquet", ".pdf", ".py")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: `label` names it in errors (as the user wrote it), `name` (no folders) in everything recorded."""

    label: str
    content: bytes

    @property
    def name(self) -> str:
        """Name of the file without folders."""
        return PurePath(self.label).name

    @property
    def extension(self) -> str:
        """Lower-case extension with its dot."""
        return PurePath(self.label).suffix.lower()

    @property
    def area(self) -> str | None:
        """Area that the file is named after (`safety.jsonl`), or None."""
        return area_named(PurePath(self.label).stem.lower())


def open_sources(paths: Sequence[Path]) -> tuple[list[SourceFile], int]:
    """Read all files, sorted by name and content; also counts the files of unknown type in the given folders.

    InputError: a path that is missing, empty, unreadable or of unknown type; a folder without a file of known type.
    """
    if not paths:
        return built_in_sources(), 0
    found: dict[Path, Path] = {}
    skipped = 0
    for path in paths:
        inside, others = _files_of(path)
        skipped += others
        for file in inside:
            found.setdefault(file.resolve(), file)
    return _in_order([SourceFile(str(path), _read(path)) for path in found.values()]), skipped


def listed_files(paths: Sequence[Path]) -> list[Path]:
    """List the files that `paths` stand for. InputError: one is missing, of unknown type, or holds none."""
    for path in paths:
        if not path.exists():
            raise _unreadable(path, "not found")
    return [file for path in paths for file in _files_of(path)[0]]


def built_in_sources() -> list[SourceFile]:
    """Read the data set that q3edge ships, one file per area. InputError: it is missing from the installation."""
    folder = files("q3edge.data") / "calibration"
    inside = sorted(folder.iterdir(), key=lambda item: item.name) if folder.is_dir() else []
    sources = [SourceFile(item.name, item.read_bytes()) for item in inside if item.name.endswith(".jsonl")]
    if not sources:
        raise InputError("the built-in calibration data is missing from this installation; install q3edge again")
    return _in_order(sources)


def _in_order(sources: list[SourceFile]) -> list[SourceFile]:
    return sorted(sources, key=lambda file: (file.name, hashlib.sha256(file.content).digest()))


def _files_of(path: Path) -> tuple[list[Path], int]:
    """List the files that `path` stands for, and count the others in it."""
    if not path.is_dir():
        if path.suffix.lower() not in EXTENSIONS:
            raise InputError(
                f"{path}: type {path.suffix or 'without extension'}; expected one of {' '.join(EXTENSIONS)}"
            )
        return [path], 0
    visible = [item for item in path.iterdir() if not (item.is_dir() or item.name.startswith("."))]
    known = [item for item in visible if item.suffix.lower() in EXTENSIONS]
    if not known:
        raise InputError(f"{path}: no calibration file in this folder; expected one of {' '.join(EXTENSIONS)}")
    return sorted(known), len(visible) - len(known)


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: cannot be read ({reason}); expected a calibration file or folder")


def _read(path: Path) -> bytes:
    try:
        content = read_regular(path)
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None
    if not content.strip():
        raise InputError(f"{path}: is empty; expected text to calibrate on")
    return content
