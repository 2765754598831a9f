"""Checks of an artifact folder, made before anything in it reaches onnxruntime or tokenizers.

Lists the files that the runtime reads and checks their content against the manifest, whose format is in
`q3edge.artifact`; what the folder's owner may edit is used as it is, and said to be.
References inside model.onnx are checked in `onnx_references`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from q3edge import progress
from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact import DATA_FILE, MANIFEST_FILE, MODEL_FILE, ArtifactKind, Manifest
from q3edge.artifact.side_files import (
    GENAI_CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_MISSING,
)
from q3edge.errors import InputError
from q3edge.machine.memory import require_address_space
from q3edge.plain_line import typed
from q3edge.runtime.session.onnx_references import ExternalTensor, check_external_data
from q3edge.runtime.session.verified_before import ContentState

_RUNTIME_BYTES = 64 << 20  # that tokenizer, template and session take besides the weights, with the smallest model
_OTHER_USE = {
    "embedding": "holds an embedding model, which makes vectors of texts and writes none: q3edge embed {} TEXT",
    "onnx": "holds a language model, which makes no embeddings: q3edge run {} PROMPT",
    "other": "holds a model for other programs; make an ONNX model of the QDIR that it came from: q3edge export QDIR",
}
_REQUIRED = (CONFIG_FILE, MODEL_FILE, DATA_FILE)


@dataclass(frozen=True)
class CheckedGraph:
    """Checked graph of an artifact folder, from `open_graph`.

    edited: files that were edited since the export; they are used as they are now. verified: whether the weights were
    found to be right before, and have not changed since.
    """

    manifest: Manifest
    edited: tuple[str, ...]
    verified: bool
    _state: ContentState

    @cached_property
    def external_data(self) -> tuple[ExternalTensor, ...]:
        """The tensors of model.onnx that lie in other files."""
        return check_external_data(self._state.folder / MODEL_FILE)

    def verify_weights(self) -> None:
        """Hash the weights; InputError: they were changed. Once they were right, `open_graph` knows it."""
        self.manifest.verify_content(self._state.folder, DATA_FILE)
        self._state.keep()


def open_artifact(folder: Path) -> Manifest:
    """Open an artifact: checks every file that the runtime reads, notes what was edited, and returns the manifest.

    InputError: no manifest or not one of an ONNX export; a file missing, changed or unlisted; external data of
    model.onnx that lies outside the folder, outside the manifest, or past a file's end.
    """
    checked = open_graph(folder, afresh=True)
    checked.verify_weights()
    note_edits(folder, checked.manifest, checked.edited)
    return checked.manifest


def note_edits(folder: Path, manifest: Manifest, edited: Collection[str]) -> None:
    """Report the `edited` files that decide how the model answers, and a genai_config.json left behind by them."""
    if edited:
        progress.note(f"note: {folder}: edited since the export, used as it is now: {', '.join(edited)}")
    if GENERATION_CONFIG_FILE in edited and _is_as_exported(folder, GENAI_CONFIG_FILE, manifest):
        progress.note(
            f"note: {folder}: {GENAI_CONFIG_FILE} still has the settings of the export: onnxruntime-genai reads it, "
            f"not {GENERATION_CONFIG_FILE}; edit `search` in it too"
        )


def _is_as_exported(folder: Path, name: str, manifest: Manifest) -> bool:
    return name in manifest.files and manifest.as_found(folder).files.get(name) == manifest.files[name]


def open_graph(folder: Path, kind: ArtifactKind = "onnx", *, afresh: bool = False) -> CheckedGraph:
    """Open an artifact of this kind without hashing its weights, of which only place and size are checked.

    Hashing the weights takes longer than everything else: `Decoder` does it while it makes its session, and computes
    nothing before their sha256 is checked. Files that were right before and have not changed since
    (`verified_before`) are not hashed again, unless `afresh`. InputError: as `open_artifact`, but for changed weights.
    """
    manifest = load_manifest(folder, kind)
    for name in _REQUIRED:
        _check_listed(folder, name, manifest)
    require_address_space(_RUNTIME_BYTES + manifest.files[DATA_FILE].size, str(folder))
    if os.path.lexists(folder / TOKENIZER_FILE) and TOKENIZER_MISSING not in {n.code for n in manifest.notices}:
        _check_listed(folder, TOKENIZER_FILE, manifest)
    manifest.verify(folder, but=manifest.files)
    state = ContentState.read(folder, manifest)
    checked = CheckedGraph(manifest, manifest.edited(folder), not afresh and state.was_verified(), state)
    if not checked.verified:
        manifest.verify(folder, but={DATA_FILE})
        for location in {data.location for data in checked.external_data}:
            path = (folder / MODEL_FILE).parent / location
            _check_listed(folder, path.relative_to(folder).as_posix(), manifest)
    return checked


def load_manifest(folder: Path, *kinds: ArtifactKind) -> Manifest:
    """Load the manifest of an artifact of one of `kinds` (none: a decoder), nothing else.

    InputError says what lies there where it is none.
    """
    if os.path.exists(folder / MANIFEST_FILE):  # False also for what cannot be a path
        manifest = Manifest.load(folder)
        if manifest.kind in (kinds or ("onnx",)):
            return manifest
        if manifest.kind in _OTHER_USE:
            raise InputError(f"{folder}: {_OTHER_USE[manifest.kind].format(typed(folder))}")
        raise InputError(
            f"{folder}: holds a {manifest.kind} checkpoint; run `q3edge export` on it first: "
            f"q3edge export {typed(folder)} -o DIR"
        )
    from q3edge.checkpoint.opening import not_an_artifact  # readers of checkpoints, which only this error needs

    raise not_an_artifact(folder)


def _check_listed(folder: Path, name: str, manifest: Manifest) -> None:
    if name not in manifest.files:
        raise InputError(f"{folder / name}: not listed in {MANIFEST_FILE}, so it cannot be verified; export again")
