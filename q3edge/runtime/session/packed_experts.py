"""`PackedExperts`: experts' weights as onnxruntime's kernels read them, in a file that sessions map.

onnxruntime packs the weights of its operator for experts on the heap, all of them, whatever a token reads. Packed
weights that lie in a file it maps instead, after it has compared them with those that it would make: what the chosen
experts need is in memory then, and the rest may leave it. It can write such a file, but of a whole model, for which all
has to be in memory; here it writes one layer at a time.

It compares packed weights only. What else it reads of these files, scales and constants, is compared here, by digests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BufferedRandom, BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime as ort

from q3edge import progress
from q3edge.errors import ResourceError, shortage
from q3edge.runtime.session.expert_graph import (
    ExpertOperator,
    StoredTensor,
    alone,
    expert_operators,
    folded_tensors,
    stored_tensors,
    with_constants,
)
from q3edge.runtime.session.lent_weights import LentWeights, Options
from q3edge.runtime.session.onnx_references import ExternalTensor
from q3edge.storage.kept_folder import ADVICE
from q3edge.storage.removal import remove_path
from q3edge.storage.sealed_json import read_sealed, write_sealed
from q3edge.storage.whole_files import make_read_only, partial_folder, writable

_WEIGHTS, _INDEX = "experts.bin", "experts.json"
_SAVED, _SAVED_WEIGHTS = "layer.onnx", "layer.bin"
_PACKED = "prepacked_"  # begin of the keys of entries that say where packed weights lie
_PAGE = 4096
_PIECE = 1 << 24  # bytes that are copied at a time
_GROUP_BYTES = 12  # a float32 scale and a float32 sum beside the codes, and the scale as the graph computes it
_SAVING = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": _SAVED_WEIGHTS,
    "session.optimized_model_external_initializers_min_size_in_bytes": "0",
}


@dataclass(frozen=True, slots=True)
class ExpertBytes:
    """Bytes of a model's experts: `stored` of their codes, `packed` in memory after onnxruntime has packed them."""

    stored: int
    packed: int


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """Packed weights in `folder`; tensors: the scales of each product, with entries of where its packed weights lie.

    instead: which input of the graph each stands for.
    """

    folder: Path
    tensors: tuple[StoredTensor, ...]
    instead: Mapping[str, str]

    def applied_to(self, model: bytes) -> bytes:
        """Copy of a serialized model that reads them."""
        return with_constants(model, self.tensors, self.instead)


def expert_bytes(model: bytes, tensors: Sequence[ExternalTensor]) -> ExpertBytes | None:
    """Count the bytes of a model's quantized experts; None: it has none."""
    shapes = {tensor.tensor: tensor.shape for tensor in tensors}
    stored = packed = 0
    for operator in expert_operators(model):
        for place, _ in operator.CODES_AND_SCALES:
            codes = prod(shapes.get(operator.inputs[place], (0,)))
            stored += codes
            packed += codes + _GROUP_BYTES * (codes * 8 // operator.bits // operator.group_size)
    return ExpertBytes(stored, packed) if stored else None


def read_packed(folder: Path) -> PackedExperts | None:
    """Read what `pack_experts` has written, and mark it as used; None if there is nothing, or nothing whole."""
    found = read_sealed(folder / _INDEX)
    try:
        tensors = tuple(
            StoredTensor(each["name"], tuple(each["shape"]), each["data_type"], each["entries"])
            for each in found["tensors"]
        )
        whole = found["of"] == folder.name and all(
            _unchanged(folder / name, size, found["parts"][name]) for name, size in found["sizes"].items()
        )
    except (TypeError, KeyError):  # none, or another program's
        return None
    if not whole:
        return None
    with suppress(OSError):  # a disk that is only read
        os.utime(folder / _INDEX)
    return PackedExperts(folder, tensors, found["instead"])


def _unchanged(path: Path, size: int, parts: Sequence[Sequence[Any]]) -> bool:
    """Tell whether a file has its size, and its parts (offset, length, sha256) their bytes."""
    try:
        if path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            return all(_digest(file, offset, length) == digest for offset, length, digest in parts)
    except OSError:
        return False


def _digest(file: BufferedReader, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    file.seek(offset)
    while length and (piece := file.read(min(length, _PIECE))):
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest()


def pack_experts(folder: Path, model: bytes, lent: LentWeights, options: Options, size: int) -> PackedExperts:
    """Have onnxruntime pack the experts of a model, one layer in memory at a time, into `folder`.

    Beside them lies what onnxruntime reads of the other weights, which `lent` has, as it loads the model.

    size: bytes of all of them, packed. ResourceError: the disk is full, or cannot be written.
    """
    operators = expert_operators(model)
    with writable(folder, ADVICE), partial_folder(folder) as partial:
        if (free := shutil.disk_usage(partial).free) < size:
            raise ResourceError(
                f"{folder}: packed experts take {size / 1e9:.1f} GB, {free / 1e9:.1f} are free; {ADVICE}"
            )
        tensors: list[StoredTensor] = []
        instead: dict[str, str] = {}
        with (partial / _WEIGHTS).open("w+b") as weights, progress.task("pack experts", len(operators)) as advance:
            for operator in operators:
                for name, tensor in _packed(model, operator, options, weights, partial):
                    tensors.append(tensor)
                    instead[name] = tensor.name
                advance(1)
        copied = lent.copy_to(partial, folded_tensors(with_constants(model, tensors, instead)))
        scales = [(int(tensor.entries["offset"]), int(tensor.entries["length"])) for tensor in tensors]
        places: dict[str, list[tuple[int, int]]] = {_WEIGHTS: scales, lent.file_name: copied}
        index = {
            "of": folder.name,
            "tensors": [asdict(tensor) for tensor in tensors],
            "instead": instead,
            "sizes": {name: (partial / name).stat().st_size for name in places},
            "parts": {name: _digests(partial / name, each) for name, each in places.items()},
        }
        for name in places:
            make_read_only(partial / name)
        write_sealed(partial / _INDEX, index, ADVICE)
        remove_path(folder)
        partial.rename(folder)
    return PackedExperts(folder, tuple(tensors), instead)


def _digests(path: Path, parts: Iterable[tuple[int, int]]) -> list[tuple[int, int, str]]:
    with path.open("rb") as file:
        return [(offset, length, _digest(file, offset, length)) for offset, length in parts]


def _packed(
    model: bytes, operator: ExpertOperator, options: Options, weights: BufferedRandom, scratch: Path
) -> Iterator[tuple[str, StoredTensor]]:
    """Append the packed weights of one layer to `weights`; yields scales of it, and the tensor to read in place."""
    chosen = options(frozenset(operator.constants))
    chosen.optimized_model_filepath = str(scratch / _SAVED)
    for key, value in _SAVING.items():
        chosen.add_session_config_entry(key, value)
    try:
        ort.InferenceSession(alone(model, operator), chosen, providers=["CPUExecutionProvider"])  # for what it writes
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise shortage(error) or _not_packed(scratch, error) from None
    saved_model = (scratch / _SAVED).read_bytes()
    saved = stored_tensors(saved_model)
    (written,) = expert_operators(saved_model)
    with (scratch / _SAVED_WEIGHTS).open("rb") as source:
        for codes, scales in operator.CODES_AND_SCALES:
            entries = {
                key: _moved_blobs(value, source, weights)
                for key, value in saved[written.inputs[codes]].entries.items()
                if key.startswith(_PACKED)
            }
            if not entries:  # no kernel here packs them: they are read where they lie
                continue
            found = saved[written.inputs[scales]]
            offset, length = (int(found.entries[key]) for key in ("offset", "length"))
            place = {
                "location": _WEIGHTS,
                "offset": str(_copied(source, offset, length, weights)),
                "length": str(length),
            }
            name = f"packed.{operator.inputs[codes]}"
            yield operator.inputs[scales], StoredTensor(name, found.shape, found.data_type, place | entries)
    for name in (_SAVED, _SAVED_WEIGHTS):
        (scratch / name).unlink()


def _not_packed(scratch: Path, error: Exception) -> ResourceError:
    reason = " ".join(str(error).split())[-200:]
    return ResourceError(f"{scratch}: onnxruntime could not write packed experts there ({reason}); {ADVICE}")


def _moved_blobs(entry: str, source: BufferedReader, target: BufferedRandom) -> str:
    """Copy blobs; entry and result are KEY|offset;length;checksum|..., as onnxruntime has them."""
    key, *blobs = entry.split("|")
    moved = [key]
    for blob in blobs:
        offset, length, checksum = blob.split(";")
        moved.append(f"{_copied(source, int(offset), int(length), target)};{length};{checksum}")
    return "|".join(moved)


def _copied(source: BufferedReader, offset: int, length: int, target: BufferedRandom) -> int:
    """Copy bytes to the end of `target`, where a page begins; returns where that is."""
    begin = -(-target.seek(0, 2) // _PAGE) * _PAGE
    target.seek(begin)
    source.seek(offset)
    while length:
        piece = source.read(min(length, _PIECE))
        target.write(piece)
        length -= len(piece)
    return begin
