"""Directories q3edge writes: complete or absent, with a manifest of every file's size and sha256.

Owns staging, promotion, the manifest's format and its verification. What is inside a directory is others' business.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from q3edge.config import read_json_object
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.version import VERSION

MANIFEST_FILE = "q3edge.json"
MODEL_FILE = "onnx/model.onnx"
DATA_FILE = "onnx/model.onnx_data"  # the name transformers.js looks for
SCHEMA_VERSION = 1
ArtifactKind = Literal["quantized", "onnx"]
_WRITE_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file: size in bytes and hex sha256."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something approximated, repaired, skipped or replaced: a stable code, how often, and a sentence for people."""

    code: str
    count: int
    detail: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What q3edge.json holds. Two runs of one command on the same input give the same bytes: no dates, no paths."""

    kind: ArtifactKind
    parent_digest: str
    recipe: Mapping[str, Any]
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    q3edge_version: str = VERSION
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read folder/q3edge.json."""
        path = folder / MANIFEST_FILE
        if not path.exists():
            raise InputError(f"{folder}: has no {MANIFEST_FILE}; expected a folder that q3edge wrote")
        raw = read_json_object(path)
        if raw.get("schema_version") != SCHEMA_VERSION:
            found = raw.get("schema_version")
            raise InputError(f"{path}: schema_version = {found!r}: this q3edge reads {SCHEMA_VERSION}; write it again")
        try:
            files = {name: FileRecord(**record) for name, record in raw["files"].items()}
            notices = tuple(Notice(**notice) for notice in raw["notices"])
            return cls(**{**raw, "files": files, "notices": notices})
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: not a q3edge manifest ({error})") from None

    def save(self, folder: Path) -> Manifest:
        """Write folder/q3edge.json, recording every other file below `folder`; returns it as `load` reads it."""
        files = {p.relative_to(folder).as_posix(): file_record(p) for p in sorted(_files_below(folder))}
        complete = replace(self, files=files)
        text = json.dumps(asdict(complete), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
        return self.load(folder)

    def with_metrics(self, metrics: Mapping[str, Any]) -> Manifest:
        """A copy with further measured values."""
        return replace(self, metrics={**self.metrics, **metrics})

    def verify(self, folder: Path, *, but: Collection[str] = ()) -> None:
        """InputError at the first file that is missing, is a link, leaves the folder, or differs in size or sha256.

        but: files of which only the sha256 is left to `verify_content`.
        """
        for name, expected in self.files.items():
            path = contained_file(folder, name)
            if (size := path.stat().st_size) != expected.size:
                raise _changed(path, f"{size} bytes, expected {expected.size}")
            if name not in but:
                self.verify_content(folder, name)

    def verify_content(self, folder: Path, name: str) -> None:
        """InputError if the sha256 of one file differs."""
        if file_record(folder / name) != self.files[name]:
            raise _changed(folder / name, "sha256 differs")


def contained_file(folder: Path, name: str) -> Path:
    """folder/name, checked to be a plain file of its own inside `folder` (no .., link, or shared inode)."""
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
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _changed(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}; the file was changed or damaged, make or copy the folder again")


def artifact_digest(folder: Path) -> str:
    """sha256 of a folder's manifest, which holds the sha256 of every other file in it."""
    return file_record(folder / MANIFEST_FILE).sha256


@contextmanager
def staged_directory(final: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A new folder beside `final` that takes its name when the block ends well, and is removed otherwise.

    UsageError: `final` exists and `overwrite` is false, or `final` is, holds or lies in one of `inputs`.
    ResourceError: the disk is full or cannot be written. What stood under `final` stays until the new one is complete.
    """
    _check_output(final, overwrite, inputs)
    staging = final.parent / f".{final.name}.partial-{os.getpid()}"
    try:
        with _write_errors(final):
            shutil.rmtree(staging, ignore_errors=True)
            _create(staging, final)
            yield staging
            _promote(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _create(staging: Path, final: Path) -> None:
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise ResourceError(f"{final}: cannot be created ({error.strerror}); choose another folder") from error


def _check_output(final: Path, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    target = final.resolve()
    if in_the_way := next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None):
        raise UsageError(f"{final}: {in_the_way} is not a folder; choose another output")
    for source in (path.resolve() for path in inputs):
        if target == source or source in target.parents or target in source.parents:
            raise UsageError(f"{final}: the output overlaps the input {source}; choose another folder")
    if os.path.lexists(final):
        if not overwrite:
            raise UsageError(f"{final}: exists already; choose another folder or add --overwrite")
        if not final.is_dir() or (any(final.iterdir()) and not (final / MANIFEST_FILE).exists()):
            raise UsageError(f"{final}: exists and was not written by q3edge; --overwrite replaces only q3edge folders")


@contextmanager
def _write_errors(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _WRITE_FAILURES:
            raise ResourceError(
                f"{final}: cannot be written ({error.strerror}); free space or choose another disk"
            ) from error
        raise


def _promote(staging: Path, final: Path) -> None:
    if not final.exists():
        staging.rename(final)
        return
    old = final.parent / f".{final.name}.old-{os.getpid()}"
    final.rename(old)
    staging.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _files_below(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() != MANIFEST_FILE)
