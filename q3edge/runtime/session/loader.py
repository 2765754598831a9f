"""Opening an artifact folder: nothing in it reaches onnxruntime or tokenizers before this module has checked it.

Owns which files the runtime reads and that each is the one the manifest records. The manifest's format is
q3edge.artifact's, the references inside model.onnx are onnx_references'.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact import DATA_FILE, MANIFEST_FILE, MODEL_FILE, Manifest
from q3edge.artifact.side_files import CHAT_TEMPLATE_FILE, GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from q3edge.errors import InputError
from q3edge.runtime.session.onnx_references import ExternalTensor, check_external_data

_REQUIRED = (CONFIG_FILE, MODEL_FILE, DATA_FILE)
_OPTIONAL = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE, GENERATION_CONFIG_FILE)


@dataclass(frozen=True, slots=True)
class CheckedGraph:
    """What `open_graph` found in a folder."""

    manifest: Manifest
    external_data: tuple[ExternalTensor, ...]  # the tensors of model.onnx that lie in other files


def open_artifact(folder: Path) -> Manifest:
    """The manifest of an exported model, after checking every file that the runtime will read.

    InputError: no manifest or not one of an ONNX export; a file missing, changed or unlisted; external data of
    model.onnx that lies outside the folder, outside the manifest, or past a file's end.
    """
    manifest = open_graph(folder).manifest
    manifest.verify_content(folder, DATA_FILE)
    return manifest


def open_graph(folder: Path) -> CheckedGraph:
    """`open_artifact` but for the bytes of the weights, of which only the place and the size are checked.

    They are numbers, whatever they are, and hashing them takes as long as everything else: `Decoder` does it while
    onnxruntime packs them, and computes nothing before the sha256 is known to be right.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not found; expected a folder written by `q3edge export` or `q3edge build`")
    manifest = Manifest.load(folder)
    if manifest.kind != "onnx":
        raise InputError(f"{folder}: holds a {manifest.kind} checkpoint; run `q3edge export` on it first")
    for name in (*_REQUIRED, *(name for name in _OPTIONAL if (folder / name).exists())):
        _check_listed(folder, name, manifest)
    manifest.verify(folder, but={DATA_FILE})
    external_data = check_external_data(folder / MODEL_FILE)
    for location in {data.location for data in external_data}:
        path = (folder / MODEL_FILE).parent / location
        _check_listed(folder, path.relative_to(folder).as_posix(), manifest)
    return CheckedGraph(manifest, external_data)


def _check_listed(folder: Path, name: str, manifest: Manifest) -> None:
    if name not in manifest.files:
        raise InputError(f"{folder / name}: not listed in {MANIFEST_FILE}, so it cannot be verified; export again")
