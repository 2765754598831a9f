"""Finished ONNX models on the hub: opened by id, pushed and pulled, and those at hand listed.

What is transferred is what the manifest lists: no other file of the folder leaves it, none of the repository comes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from q3edge import progress
from q3edge.artifact import (
    DATA_FILE,
    EDITABLE_FILES,
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    folder_name,
    staged_directory,
)
from q3edge.checkpoint.hub import Repository, hub_errors, is_repository
from q3edge.checkpoint.known_models import known_model
from q3edge.errors import InputError, ResourceError, UsageError, resumable
from q3edge.report.model_card import CARD_FILE

_LINKED = (MODEL_FILE, DATA_FILE)  # nobody edits them; the other files of a copy are small, and its own
_BESIDE = ("", "*/", "*/*/")  # where models are looked for, below a folder


@dataclass(frozen=True, slots=True)
class FoundModel:
    """Finished ONNX model at hand. name: what to give to `run`, a path or a hub id; text_kl: nats, as `build` measured.

    complete: False where a file is missing or has another size, as after a download that was stopped.
    """

    name: str
    folder: Path
    model_bytes: int
    bits_per_weight: float | None
    text_kl: float | None
    complete: bool

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return {**asdict(self), "folder": str(self.folder)}


def resolve_artifact(path_or_id: str | Path) -> Path:
    """Resolve the folder of a finished ONNX model: `path_or_id` itself, or the hub's repository `org/name`.

    InputError: it looks like a hub id, is no folder, and is not available from the hub.
    """
    folder, name = Path(path_or_id).expanduser(), Path(path_or_id).as_posix()
    if os.path.exists(folder) or not is_repository(name):
        return folder
    return _snapshot(name)


def push_artifact(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    base_model: str | None = None,
    license_name: str | None = None,
) -> int:
    """Upload a finished ONNX model to the hub's `repository`, made if missing; returns the number of bytes.

    The README there has front matter, where the folder's own has none: base_model and license_name are in it (None: of
    the hub's checkpoint that the model was made from, as far as it is known). private: for a repository that is new.
    What the hub has already is not sent again, so a stopped push goes on. InputError: the folder is no sound artifact,
    or the hub refuses. UsageError: a name is no hub id, or facts are given for a README that has front matter.
    """
    from huggingface_hub import HfApi

    from q3edge.runtime.session.loader import note_edits

    _check_repository(repository)
    if base_model is not None:
        _check_repository(base_model)
    manifest = _loaded(folder)
    manifest.verify(folder)
    note_edits(folder, manifest, manifest.edited(folder))
    names = [MANIFEST_FILE, *manifest.as_found(folder).files]
    gone = [name for name in EDITABLE_FILES if name not in names]  # an earlier model's there would change this one
    card = _card(folder, manifest, repository, base_model, license_name)
    with tempfile.TemporaryDirectory(prefix="q3edge-push-") as temporary, hub_errors(repository):
        sent = Path(temporary)
        for name in names:
            _send(folder / name, sent / name)
        if card is not None:
            (sent / CARD_FILE).unlink(missing_ok=True)
            (sent / CARD_FILE).write_text(card, encoding="utf-8")
        hub = HfApi()
        hub.create_repo(repository, exist_ok=True, private=private or None)
        hub.upload_folder(
            repo_id=repository,
            folder_path=sent,
            allow_patterns=[*names, CARD_FILE] if card is not None else names,
            delete_patterns=gone,
            commit_message="Model made by q3edge",
        )
        return sum(path.stat().st_size for path in sent.rglob("*") if path.is_file())


def _card(
    folder: Path, manifest: Manifest, repository: str, base_model: str | None, license_name: str | None
) -> str | None:
    """Card with front matter for the hub; None: the folder's own has some, which is sent as it is."""
    from q3edge.report.card_metadata import CardFacts, has_front_matter, with_front_matter  # it loads the hub's library

    path = folder / CARD_FILE
    name = repository.rpartition("/")[2]
    own = path.read_text(encoding="utf-8") if path.exists() else f"# {name}\n"
    if has_front_matter(own):
        if base_model is not None or license_name is not None:
            raise UsageError(f"{path}: has front matter of its own: write the base model and the licence there")
        return None
    base = manifest.base_model if base_model is None else base_model
    known = known_model(base) if base else None
    license_name = license_name or ("" if known is None else known.license)
    if not base:
        progress.note(
            "note: the card names no base model, as the checkpoint was none of the hub's; --base-model names it"
        )
    if not license_name:
        progress.note("note: the card names no licence; --license names it")
    return with_front_matter(own, manifest, CardFacts(name, base, license_name))


def _send(source: Path, target: Path) -> None:
    """Put a file where it is sent from: a link, or a copy where links are not made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def pull_artifact(repository: str, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Download a finished ONNX model into the hub's cache, check it, and copy it to `output` if given.

    Returns its folder. What the cache has is not loaded again, so a stopped pull goes on. Graph and weights of the copy
    are those of the cache, by hard links, where both are on one file system: the space is taken once. InputError: it
    is not available or damaged. UsageError: the name is no hub id, or `output` exists. ResourceError: a copy has no
    room.
    """
    _check_repository(repository)
    if output is None:
        folder = _snapshot(repository)
        _loaded(folder).verify(folder)
        return folder
    with staged_directory(output, overwrite=overwrite) as staging:
        folder = _snapshot(repository, partial(_require_room, staging))
        manifest = _loaded(folder)
        for name in (MANIFEST_FILE, *manifest.as_found(folder).files):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(folder / name, staging / name, link=name in _LINKED)
        manifest.verify(staging)
    return output


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file of the hub's cache, or link to it where that is asked for and the file system does it."""
    if link:
        with suppress(OSError):
            os.link(source.resolve(), target)
            return
    shutil.copyfile(source, target)


def _require_room(staging: Path, cached: Path) -> None:
    """Raise ResourceError where the model of the manifest in `cached` is to be copied and does not fit beside."""
    manifest = _loaded(cached)
    shared = staging.stat().st_dev == cached.stat().st_dev
    needed = sum(file.size for name, file in manifest.files.items() if not (shared and name in _LINKED))
    if needed > (free := shutil.disk_usage(staging).free):
        raise ResourceError(
            f"{staging.parent}: the copy needs {needed / 1e6:.0f} MB there, {free / 1e6:.0f} MB are free; free some, "
            "or leave out -o and run it by its id"
        )


def find_models(folder: Path) -> list[FoundModel]:
    """Find finished ONNX models in `folder` and two levels below, and in the hub's cache; nothing is downloaded.

    InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not found; expected a folder with models")
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {path.parent: str(path.parent) for below in _BESIDE for path in sorted(folder.glob(below + MANIFEST_FILE))}
    for reference in sorted(Path(HF_HUB_CACHE).glob("models--*/refs/main")):
        repository = reference.parents[1]
        snapshot = repository / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if (snapshot / MANIFEST_FILE).exists():
            places[snapshot] = folder_name(snapshot)
    return list(_found(places))


def _found(places: dict[Path, str]) -> Iterator[FoundModel]:
    for folder, name in places.items():
        try:
            manifest = _loaded(folder)
            size = sum(manifest.files[part].size for part in (MODEL_FILE, DATA_FILE))
            bits = manifest.metrics.get("bits_per_weight")
            yield FoundModel(name, folder, size, bits, _text_kl(manifest), _is_complete(folder, manifest))
        except (InputError, KeyError):  # a quantized checkpoint, or damaged: nothing that `run` would take
            continue


def _text_kl(manifest: Manifest) -> float | None:
    """Mean KL in nats that `build` recorded; None where there is none."""
    try:
        return float(manifest.metrics["validation"]["overall"]["mean_kl"]["value"])
    except (KeyError, TypeError, ValueError):
        return None


def _is_complete(folder: Path, manifest: Manifest) -> bool:
    content = ((folder / name, record.size) for name, record in manifest.files.items() if name not in EDITABLE_FILES)
    return all(os.path.isfile(path) and path.stat().st_size == size for path, size in content)


def _snapshot(repository: str, check: Callable[[Path], None] = lambda _: None) -> Path:
    """Download what belongs to a finished model into the hub's cache; returns its folder there.

    check: called with that folder once the manifest is there, before anything else is loaded.
    """
    with resumable(), hub_errors(repository, "q3edge pull"):
        found = Repository(repository)
        folder = None if found.lacks(MANIFEST_FILE) else found.folder([MANIFEST_FILE])
        if folder is None or not (folder / MANIFEST_FILE).exists():
            raise InputError(
                f"{repository}: has no {MANIFEST_FILE}, so it is no ONNX model of q3edge; a checkpoint is "
                f"built first: q3edge build {repository} -o DIR"
            )
        check(folder)
        return found.folder([MANIFEST_FILE, *_loaded(folder).files, *EDITABLE_FILES])


def _loaded(folder: Path) -> Manifest:
    manifest = Manifest.load(folder)
    if not manifest.is_onnx:
        raise InputError(f"{folder}: holds a {manifest.kind} checkpoint; run `q3edge export` on it first")
    return manifest


def _check_repository(repository: str) -> None:
    if not is_repository(repository):
        raise UsageError(f"{repository}: expected a hub id, ORG/NAME")
