"""Whether the experts of a model stay on the disk, and their packed weights there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort

from q3edge import progress
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import UsageError
from q3edge.machine.cpu import instruction_sets
from q3edge.machine.memory import available_memory
from q3edge.runtime.session.kept_room import make_room
from q3edge.runtime.session.lent_weights import LentWeights, Options
from q3edge.runtime.session.loader import CheckedGraph
from q3edge.runtime.session.onnx_references import read_external_data
from q3edge.runtime.session.packed_experts import (
    ExpertBytes,
    PackedExperts,
    expert_bytes,
    pack_experts,
    read_packed,
)
from q3edge.storage.digests import json_digest
from q3edge.storage.kept_folder import ADVICE, keep_origin, kept_folder
from q3edge.storage.locks import output_lock

FOLDER = "experts"  # of what is packed, in the folder of what is kept
PACKING = "packing the experts of"  # begin of the note
_RUNTIME_BYTES = 64 << 20  # Python, onnxruntime, tokenizer
_OTHER_WEIGHTS = 1.4  # bytes in memory for each byte of other weights on the disk: their groups' scales are widened


def stays_on_disk(folder: Path, checked: CheckedGraph, model: bytes, offload: bool | None) -> ExpertBytes | None:
    """Decide whether onnxruntime's experts stay on the disk: their sizes if so, else None; model: the serialized graph.

    offload None: only where the model would need more memory than this process may have, which is said.
    """
    experts = expert_bytes(model, checked.external_data) if offload is not False else None
    if experts is None or offload:
        return experts
    available = available_memory()
    others = checked.manifest.files[DATA_FILE].size - experts.stored
    needed = _RUNTIME_BYTES + experts.packed + int(_OTHER_WEIGHTS * others)
    if available is None or needed <= available:
        return None
    note_on_disk(folder, needed, available)
    return experts


def note_on_disk(folder: Path, needed: int, available: int) -> None:
    """Say that a model's experts stay on the disk, and why; bytes."""
    progress.note(
        f"note: {folder}: needs about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} are at hand: its "
        "experts stay on the disk, and tokens are as fast as what they read from there"
    )


def require_experts(folder: Path, checked: CheckedGraph, model: bytes) -> None:
    """Raise UsageError if a model has no quantized experts, which are to stay on the disk."""
    if expert_bytes(model, checked.external_data) is None:
        raise no_experts(folder)


def no_experts(folder: Path) -> UsageError:
    """Make the error for offload of a model that has nothing to offload."""
    return UsageError(
        f"{folder}: has no quantized experts in onnxruntime's operator, which alone can stay on the disk; leave out "
        "--offload"
    )


def experts_on_disk(folder: Path) -> int:
    """Count the bytes of a model's quantized experts, which need not be in memory."""
    path = folder / MODEL_FILE
    experts = expert_bytes(path.read_bytes(), read_external_data(path))
    return 0 if experts is None else experts.stored


def packed_on_disk(
    folder: Path,
    checked: CheckedGraph,
    model: bytes,
    lent: LentWeights,
    experts: ExpertBytes,
    options: Options,
    variant: str,
    verify: Callable[[], object],
) -> PackedExperts:
    """Find the packed experts of a model for this onnxruntime and CPU, or pack them, once and for all.

    variant: how the operators are set up, beside the graph. verify: checks the weights, before they are packed.
    ResourceError: the disk is full, or cannot be written.
    """
    sources = [checked.manifest.files[name].sha256 for name in (MODEL_FILE, DATA_FILE)]
    digest = json_digest([*sources, ort.__version__, instruction_sets(), variant])
    place = kept_folder(FOLDER) / digest[:32]
    if (found := read_packed(place)) is not None:
        return found
    verify()
    progress.note(f"{PACKING} {folder} for this CPU, once: {_size(experts.packed)} in {place}")
    with output_lock(place, wait=True, advice=ADVICE):  # another process may be packing them
        if (found := read_packed(place)) is not None:
            return found
        if place.exists():
            progress.note(f"note: {place}: is damaged, and is made again")
        make_room(FOLDER, place)
        packed = pack_experts(place, model, lent, options, experts.packed)
        keep_origin(place, folder)
        make_room(FOLDER, place)
        return packed


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"
