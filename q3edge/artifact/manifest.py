"""`Manifest`: the q3edge.json of every folder that q3edge writes: each file's size and sha256, recipe, notices.

Defines the format and its verification: what is content, and what the folder's owner may edit.
`q3edge.artifact.folder` makes folders complete or absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from q3edge.artifact.files import FileRecord, contained_file, file_record, own_file
from q3edge.errors import InputError
from q3edge.formats import EXPERT_OPERATORS, ExpertOperators
from q3edge.plain_line import plain_line
from q3edge.storage.digests import json_digest
from q3edge.storage.json_files import read_json_object
from q3edge.version import VERSION

MANIFEST_FILE = "q3edge.json"
MODEL_FILE = "onnx/model.onnx"
DATA_FILE = "onnx/model.onnx_data"  # the name transformers.js looks for
SCHEMA_VERSION = 1
# onnx and embedding are ONNX: a decoder, an embedding model; other is for other programs to run (`export --to`).
ArtifactKind = Literal["quantized", "onnx", "embedding", "other"]
# The owner's to change, in any folder; all other files are content, right only by their sha256.
BEHAVIOUR_FILES = ("chat_template.jinja", "generation_config.json", "tokenizer_config.json")  # q3edge reads them
EDITABLE_FILES = (*BEHAVIOUR_FILES, "README.md", "genai_config.json")
_METRICS: Mapping[str, type] = {  # those that are read back
    "base_model": str, "bits_per_weight": float, "experts": str, "experts_per_token": dict, "lost_scales": dict,
    "model_bytes": int, "tensors": dict, "validation": dict, "weight_bytes": int,
}  # fmt: skip
EXPERT_LOSS = "_loss"  # end of the names in a layer of metrics.expert_layers that losses by expert have
_LOST = ("lost", "groups", "share")  # of a tensor's groups whose scale could not be stored


def expert_loss(role: str) -> str:
    """Name that the losses of one of the experts' input groups have in a layer of metrics.expert_layers."""
    return role.rpartition(".")[2] + EXPERT_LOSS


@dataclass(frozen=True, slots=True)
class Notice:
    """Something approximated, repaired, skipped or replaced: a stable code, how often, and a sentence for people.

    The sentence is one line that is safe to print, whatever the names in it hold.
    """

    code: str
    count: int
    detail: str

    def __post_init__(self) -> None:
        if isinstance(self.detail, str):  # `Manifest.load` refuses anything else
            object.__setattr__(self, "detail", plain_line(self.detail))


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
        if not (os.path.exists(path) or os.path.islink(path)):
            raise InputError(f"{folder}: has no {MANIFEST_FILE}; expected a folder that q3edge wrote")
        raw = read_json_object(own_file(folder, MANIFEST_FILE))
        if raw.get("schema_version") != SCHEMA_VERSION:
            found = raw.get("schema_version")
            raise InputError(f"{path}: schema_version = {found!r}: this q3edge reads {SCHEMA_VERSION}; write it again")
        try:
            return _checked(raw)
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: not a q3edge manifest ({error}); make or copy the folder again") from None

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

    @property
    def is_onnx(self) -> bool:
        """Whether the folder is a finished ONNX model, not a checkpoint."""
        return self.kind in ("onnx", "embedding")

    @property
    def model_bytes(self) -> int:
        """Bytes of graph and weights, of an ONNX export. InputError: the manifest does not say."""
        found = self.metrics.get("model_bytes")
        if type(found) is not int:
            raise InputError(f"{MANIFEST_FILE}: metrics.model_bytes = {found!r}: expected a number; export again")
        return found

    @property
    def experts(self) -> ExpertOperators:
        """Operators of the experts of an ONNX export. InputError: the manifest names others."""
        found = self.metrics.get("experts", "qmoe")
        for known in EXPERT_OPERATORS:
            if found == known:
                return known
        raise InputError(f"{MANIFEST_FILE}: metrics.experts = {found!r}: expected one of {', '.join(EXPERT_OPERATORS)}")

    @property
    def base_model(self) -> str:
        """Hub id of the checkpoint that the model was made from; empty where it was not one of the hub."""
        return str(self.metrics.get("base_model", ""))

    @property
    def fewer_experts(self) -> tuple[int, int] | None:
        """Experts a token of an ONNX export, and those that the model was trained with; None where they are as many."""
        found = self.metrics.get("experts_per_token")
        return (found["chosen"], found["model"]) if found else None

    def verify(self, folder: Path, *, but: Collection[str] = ()) -> None:
        """Check all content; InputError at the first file that is missing, outside the folder, or was changed.

        Size and sha256 are compared; EDITABLE_FILES are left out. but: files whose sha256 is not read here;
        `verify_content` checks it.
        """
        for name, expected in self.files.items():
            if name in EDITABLE_FILES:
                continue
            path = contained_file(folder, name)
            if (size := path.stat().st_size) != expected.size:
                raise _changed(path, f"{size} bytes, expected {expected.size}")
            if name not in but:
                self.verify_content(folder, name)

    def verify_content(self, folder: Path, name: str) -> None:
        """Check size and sha256 of one file; InputError if they differ."""
        if file_record(folder / name) != self.files[name]:
            raise _changed(folder / name, "sha256 differs")

    def as_found(self, folder: Path) -> Manifest:
        """Copy with the records that EDITABLE_FILES have now; those that are gone have none.

        InputError: an edited file lies outside the folder, behind a link.
        """
        found = {name: record for name, record in self.files.items() if name not in EDITABLE_FILES}
        for name in EDITABLE_FILES:
            if os.path.lexists(folder / name):
                found[name] = file_record(contained_file(folder, name))
                if found[name] != self.files.get(name):
                    own_file(folder, name)
        return replace(self, files=dict(sorted(found.items())))

    def edited(self, folder: Path) -> tuple[str, ...]:
        """Names of the BEHAVIOUR_FILES that were edited, added or removed since the folder was made.

        InputError: as `as_found`.
        """
        now = self.as_found(folder).files
        return tuple(name for name in BEHAVIOUR_FILES if now.get(name) != self.files.get(name))


def is_sound(folder: Path) -> bool:
    """Tell whether a folder has a manifest and all content as recorded there; reads all of it."""
    try:
        Manifest.load(folder).verify(folder)
    except (InputError, OSError):
        return False
    return True


def is_untouched(folder: Path) -> bool:
    """Tell whether a folder is sound, and nothing that decides its answers was edited."""
    try:
        return is_sound(folder) and not Manifest.load(folder).edited(folder)
    except (InputError, OSError):
        return False


def manifest_digest(folder: Path) -> str:
    """Digest of what was made: hex sha256 of the manifest, which holds the sha256 of every other file."""
    return file_record(folder / MANIFEST_FILE).sha256


def artifact_digest(folder: Path) -> str:
    """Digest of a folder as it answers now: the manifest's, or with edited BEHAVIOUR_FILES another of both."""
    manifest = Manifest.load(folder)
    if not (edited := manifest.edited(folder)):
        return manifest_digest(folder)
    now = manifest.as_found(folder).files
    return json_digest([manifest_digest(folder), {name: now[name].sha256 if name in now else None for name in edited}])


def _checked(raw: Mapping[str, Any]) -> Manifest:
    """Build a manifest of JSON values of the right types; TypeError, KeyError or AttributeError if they are not."""
    files = {name: FileRecord(**record) for name, record in raw["files"].items()}
    notices = tuple(Notice(**notice) for notice in raw["notices"])
    manifest = Manifest(**{**raw, "files": files, "notices": notices})
    _require(manifest.kind in get_args(ArtifactKind), "kind", f"one of {', '.join(get_args(ArtifactKind))}")
    _require(isinstance(manifest.parent_digest, str), "parent_digest", "text")
    _require(isinstance(manifest.q3edge_version, str), "q3edge_version", "text")
    for name in ("recipe", "metrics", "versions"):
        _require(isinstance(getattr(manifest, name), dict), name, "an object")
    _require(all(isinstance(version, str) for version in manifest.versions.values()), "versions", "texts")
    for name, kind in _METRICS.items():
        value = manifest.metrics.get(name, kind())
        _require(type(value) is kind or (kind is float and type(value) is int), f"metrics.{name}", kind.__name__)
    tensors = manifest.metrics.get("tensors", {}).values()
    _require(all(isinstance(report, dict) for report in tensors), "metrics.tensors", "objects")
    chosen = manifest.metrics.get("experts_per_token")
    right = not chosen or all(type(chosen.get(key)) is int for key in ("chosen", "model"))
    _require(right, "metrics.experts_per_token", "chosen and model")
    for lost in manifest.metrics.get("lost_scales", {}).values():
        right = isinstance(lost, dict) and all(type(lost.get(key)) in (int, float) for key in _LOST)
        _require(right, "metrics.lost_scales", f"objects of {', '.join(_LOST)}")
    for name, record in files.items():
        _require(type(record.size) is int and isinstance(record.sha256, str), f"files.{name}", "size and sha256")
    for notice in notices:
        right = isinstance(notice.code, str) and type(notice.count) is int and isinstance(notice.detail, str)
        _require(right, "notices", "code, count and detail")
    return manifest


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise TypeError(f"{name}: expected {expected}")


def _changed(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}; the file was changed or damaged, make or copy the folder again")


def _files_below(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() != MANIFEST_FILE)
