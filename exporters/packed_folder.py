"""Folders of safetensors in a layout of another program: what the writers of such layouts share.

A layout says how the codes of one matrix are stored; here are the stream of all tensors, config.json and side files.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.artifact import Notice
from q3edge.artifact.side_files import copy_side_files
from q3edge.checkpoint import ModelFolder
from q3edge.checkpoint.model_format import QUANTIZATION_FIELDS
from q3edge.checkpoint.safetensors.file import NUMPY_DTYPES
from q3edge.checkpoint.safetensors.writer import SafetensorsWriter, bfloat16_bits
from q3edge.checkpoint.shards import SINGLE_FILE
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scales, Scheme
from q3edge.quantization.tensor import QuantizedTensor

_BLOCK_WEIGHTS: Final = 4 << 20
_TABLES: Final = (EMBEDDING, LM_HEAD)
StoredPart = tuple[str, tuple[int, ...]]  # dtype as safetensors names it, shape


class PackedLayout(ABC):
    """Layout of quantized matrices in another program's checkpoints.

    name: for messages. group_sizes: those that its programs have; larger groups repeat their scale in smaller ones.
    has_tables: embedding and head may be quantized; otherwise they are stored in float16. by_rows: a range of rows is
    stored by itself; otherwise a matrix is held in memory as a whole. rounds_inputs: it has int8 inputs of a layer.
    """

    name: str
    group_sizes: tuple[int, ...]
    has_tables: bool
    by_rows: bool
    rounds_inputs: bool = False

    @abstractmethod
    def parts(self, shape: tuple[int, int], scheme: Scheme) -> Mapping[str, StoredPart]:
        """Parts of a matrix [N, K] by what takes the place of "weight" in its name."""

    @abstractmethod
    def encode(self, block: QuantizedTensor, where: str, /) -> Mapping[str, NDArray[Any]]:
        """Encode rows of a matrix, or all of it: part -> stored values; where: file and tensor, for errors."""

    @abstractmethod
    def config(self, schemes: Mapping[str, Scheme | None]) -> Mapping[str, Any]:
        """Fields of config.json that describe the layout; schemes: of all matrices, in their stored groups."""

    def stored_name(self, name: str) -> tuple[str, int | None]:
        """Stored name of a tensor, and its number where several are stored as one, [count, N, ...]."""
        return name, None


@dataclass(frozen=True, slots=True)
class Stored:
    """Tensors of a model as a layout stores them: their schemes, and those whose codes it has no place for.

    by_token: number of matrices whose layer rounds its input for each token.
    """

    schemes: Mapping[str, Scheme | None]
    as_floats: tuple[str, ...]
    by_token: int

    def notices(self, layout: PackedLayout) -> tuple[Notice, ...]:
        """Notices of what differs from the checkpoint."""
        found = []
        if self.as_floats:
            detail = (
                f"tables are stored in float16, as {layout.name} has no codes for them: {', '.join(self.as_floats)}"
            )
            found.append(Notice("tables-as-float", len(self.as_floats), detail))
        if self.by_token:
            detail = f"matrices read activations rounded for each token here, in {layout.name} as they are"
            found.append(Notice("activations-not-rounded", self.by_token, detail))
        return tuple(found)


def stored_by(layout: PackedLayout, source: ModelFolder) -> Stored:
    """Find how the layout stores a model. InputError: groups that its programs do not have, with what to choose."""
    schemes: dict[str, Scheme | None] = {}
    as_floats: list[str] = []
    for name, shape in tensor_shapes(source.config).items():
        scheme = source.scheme(name)
        if scheme is not None and name in _TABLES and not layout.has_tables:
            as_floats.append(name)
            scheme = None
        schemes[name] = None if scheme is None else _in_groups(layout, scheme, name, shape[-1], source)
    schemes = _alike(schemes)
    if not any(schemes.values()):
        raise InputError(f"{source.folder}: {layout.name} would hold no codes; quantize the layers too")
    found = [] if layout.rounds_inputs else [source.scheme(name) for name in schemes]
    by_token = sum(scheme is not None and scheme.activations != "float" for scheme in found)
    return Stored(schemes, tuple(as_floats), by_token)


def write_packed_folder(layout: PackedLayout, source: ModelFolder, stored: Stored, folder: Path) -> tuple[Notice, ...]:
    """Write model.safetensors, config.json and the side files into an existing empty folder; returns notices.

    stored: what `stored_by` found.
    """
    entries: dict[str, StoredPart] = {}
    for name, shape in tensor_shapes(source.config).items():
        scheme = stored.schemes[name]
        if scheme is None:
            parts: Mapping[str, StoredPart] = {
                "weight": ("F16" if name in stored.as_floats else source.dtype(name), shape)
            }
        else:
            parts = layout.parts((shape[0], shape[1]), scheme)
        for part, (kind, part_shape) in parts.items():
            target, number = _target(layout, name, part)
            count = 0 if number is None else max(number + 1, entries.get(target, ("", (0,)))[1][0])
            entries[target] = (kind, part_shape if number is None else (count, *part_shape))
    with SafetensorsWriter(folder / SINGLE_FILE, entries, {"format": "pt"}) as writer:
        for name in stored.schemes:
            for part, values in _encoded(layout, source, stored, name, entries):
                target, number = _target(layout, name, part)
                writer.append(target, values if number is None else values[None])
    own = {key: value for key, value in source.raw_config.items() if key not in QUANTIZATION_FIELDS}
    config = {**own, **layout.config(stored.schemes)}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return (*stored.notices(layout), *copy_side_files(source.side_folder, folder, source.folder))


def _in_groups(layout: PackedLayout, scheme: Scheme, name: str, width: int, source: ModelFolder) -> Scheme:
    """Scheme with the same values in groups that the layout has."""
    if layout.rounds_inputs and scheme.activations != "float":
        return scheme
    group = width if scheme.group_size is None else scheme.group_size
    size = max((size for size in layout.group_sizes if group % size == 0), default=None)
    if size is None:
        raise InputError(
            f"{source.folder} ({name}): groups of {group}, which {layout.name} does not have; quantize with "
            "--group-size 32"
        )
    scales: Scales = "float16" if scheme.group_size is None and scheme.scales != "float32" else scheme.scales
    return Scheme(scheme.bits, size, scheme.symmetric, scales=scales)


def _alike(schemes: Mapping[str, Scheme | None]) -> dict[str, Scheme | None]:
    """Give matrices of the same width of codes the smallest group size of them: few programs take several in a model.

    Group sizes are powers of two, so that each divides the larger ones, and scales are repeated, which changes nothing.
    """
    smallest: dict[int, int] = {}
    for scheme in schemes.values():
        if scheme is not None and scheme.group_size is not None:
            smallest[scheme.bits] = min(scheme.group_size, smallest.get(scheme.bits, scheme.group_size))
    return {
        name: replace(scheme, group_size=smallest[scheme.bits]) if scheme and scheme.group_size else scheme
        for name, scheme in schemes.items()
    }


def _target(layout: PackedLayout, name: str, part: str) -> tuple[str, int | None]:
    stored, number = layout.stored_name(name)
    return stored.removesuffix("weight") + part, number


def _encoded(
    layout: PackedLayout, source: ModelFolder, stored: Stored, name: str, entries: Mapping[str, StoredPart]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the parts of a tensor, in blocks of rows where the layout and the tensor allow it."""
    shape, scheme = tensor_shapes(source.config)[name], stored.schemes[name]
    whole = layout.stored_name(name)[1] is not None or (scheme is not None and not layout.by_rows)
    step = shape[0] if whole or len(shape) == 1 else max(1, _BLOCK_WEIGHTS // shape[1])
    for start in range(0, shape[0], step):
        rows = slice(start, min(start + step, shape[0]))
        if scheme is not None:
            block = source.read_quantized(name, rows).regrouped(scheme)
            yield from layout.encode(block, f"{source.folder} ({name})").items()
            continue
        dtype = entries[_target(layout, name, "weight")[0]][0]
        values = source.read(name, rows)
        if dtype == "F16" and not np.isfinite(values.astype(np.float16)).all():
            raise InputError(f"{source.folder} ({name}): values that float16 does not hold; keep it float")
        yield "weight", bfloat16_bits(values) if dtype == "BF16" else values.astype(NUMPY_DTYPES[dtype])
