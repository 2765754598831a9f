"""`Manifest`: the q3edge.json of every folder that q3edge writes: each file's size and sha256, recipe, notices.

Defines the format and its verification. `q3edge.artifact.folder` makes folders complete or absent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from q3edge.artifact.files import FileRecord, contained_file, file_record
from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_object
from q3edge.version import VERSION

MANIFEST_FILE = "q3edge.json"
MODEL_FILE = "onnx/model.onnx"
DATA_FILE = "onnx/model.onnx_data"  # the name transformers.js looks for
SCHEMA_VERSION = 1
ArtifactKind = Literal["quantized", "onnx"]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something approximated, repaired, skipped or replaced: a stable code, how often, and a sentence for people."""

    code: str
    count: int
    detail: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of q3edge.json. Two runs of one command on the same input give the same bytes: no dates, no paths."""

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
        """Read folder/q3edge.json; InputError if it is missing, damaged or of another schema version."""
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
        """Write folder/q3edge.json with a record of every other file in `folder`; returns the manifest as read back."""
        files = {p.relative_to(folder).as_posix(): file_record(p) for p in sorted(_files_below(folder))}
        complete = replace(self, files=files)
        text = json.dumps(asdict(complete), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
        return self.load(folder)

    def with_metrics(self, metrics: Mapping[str, Any]) -> Manifest:
        """Copy with further measured values."""
        return replace(self, metrics={**self.metrics, **metrics})

    def verify(self, folder: Path, *, but: Collection[str] = ()) -> None:
        """Check every file; InputError at the first that is missing, a link, outside the folder, or was changed.

        Size and sha256 are compared. but: files whose sha256 is not read here; `verify_content` checks it.
        """
        for name, expected in self.files.items():
            path = contained_file(folder, name)
            if (size := path.stat().st_size) != expected.size:
                raise _changed(path, f"{size} bytes, expected {expected.size}")
            if name not in but:
                self.verify_content(folder, name)

    def verify_content(self, folder: Path, name: str) -> None:
        """Check size and sha256 of one file; InputError if they differ."""
        if file_record(folder / name) != self.files[name]:
            raise _changed(folder / name, "sha256 differs")


def is_sound(folder: Path) -> bool:
    """Tell whether a folder has a manifest and every file in it as recorded there; reads all of them."""
    try:
        Manifest.load(folder).verify(folder)
    except (InputError, OSError):
        return False
    return True


def artifact_digest(folder: Path) -> str:
    """Digest of a folder: hex sha256 of its manifest, which holds the sha256 of every other file in it."""
    return file_record(folder / MANIFEST_FILE).sha256


def _changed(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}; the file was changed or damaged, make or copy the folder again")


def _files_below(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() != MANIFEST_FILE)
