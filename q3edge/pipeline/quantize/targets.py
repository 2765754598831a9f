"""Formats that a budget is spent on: the schemes to choose among, and the bytes of a model that is stored in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.calibration.layers.scheme_groups import SchemeGroup
from q3edge.checkpoint import Checkpoint
from q3edge.exporters.gguf import GGUF_SCHEMES, GgufSizes
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.exporters.onnx.stored import group_bytes
from q3edge.formats import CACHE_TYPES, Program
from q3edge.quantization.scheme import Scheme

Widths = tuple[Scheme | None, ...]  # None: float


class Target(Protocol):
    """Format of the exported model, for one model.

    layers, tables: the schemes that a group of a layer, and embedding and head, are chosen from. unrounded: the command
    that keeps the whole model float.
    """

    layers: ClassVar[Widths]
    tables: ClassVar[Widths]
    unrounded: ClassVar[str]

    @property
    def config(self) -> Qwen3Config:
        """Configuration of the model."""

    def group_bytes(self, group: SchemeGroup, scheme: Scheme | None) -> int:
        """Bytes of a scheme group's weights."""

    def model_bytes(self, schemes: Mapping[str, Scheme | None]) -> int:
        """Bytes of the exported model, by the scheme of every tensor."""


@dataclass(frozen=True, slots=True)
class OnnxTarget:
    """ONNX model: its graph and its weights. int8_cache: the graph holds the scales of an int8 KV cache."""

    # Only schemes that onnxruntime decodes as fast as their bytes allow: groups of 16 take 2.4 times their share at 4
    # bits, and have no kernel at 2 (docs/lab-log.md).
    layers: ClassVar[Widths] = (
        Scheme(2, 64, False),
        Scheme(2, 32, False),
        Scheme(4, 128, False),
        Scheme(4, 64),
        Scheme(4, 64, False),
        Scheme(4, 32),
        Scheme(4, 32, False),
        Scheme(8, 128),
        Scheme(8, 32),
        None,
    )
    tables: ClassVar[Widths] = (Scheme(4, 32), Scheme(4, 32, False), Scheme(8, 32), Scheme(8, 16), None)
    unrounded: ClassVar[str] = "q3edge build --format float"

    config: Qwen3Config
    int8_cache: bool = False

    def group_bytes(self, group: SchemeGroup, scheme: Scheme | None) -> int:
        """Bytes of a scheme group: matrices that share an input are stored as one, tables and experts each alone."""
        alone = group.layer is None or group.has_experts
        stored = [(name,) for name in group.tensors] if alone else [group.tensors]
        shapes = tensor_shapes(self.config)
        return sum(group_bytes(shapes, names, scheme) for names in stored)

    def model_bytes(self, schemes: Mapping[str, Scheme | None]) -> int:
        """Bytes of graph and weights, from a dry run of the export."""
        return dry_run(self.config, schemes, CACHE_TYPES[self.int8_cache]).model_bytes


class GgufTarget:
    """GGUF file of a quantized checkpoint that is made of `checkpoint` in the folder `output`: all of it.

    Its tokenizer, and `output`'s name, are in the file.
    """

    # Float matrices only where none fits: they take four times the bytes of Q8_0.
    layers: ClassVar[Widths] = GGUF_SCHEMES
    tables: ClassVar[Widths] = (*GGUF_SCHEMES, None)
    unrounded: ClassVar[str] = "q3edge export --format float --to gguf"

    def __init__(self, checkpoint: Checkpoint, output: Path) -> None:
        self.config = checkpoint.config
        self._sizes = GgufSizes(checkpoint, output)

    def group_bytes(self, group: SchemeGroup, scheme: Scheme | None) -> int:
        """Bytes of a scheme group's tensors, padded as they are in the file."""
        return self._sizes.of_tensors(dict.fromkeys(group.tensors, scheme))

    def model_bytes(self, schemes: Mapping[str, Scheme | None]) -> int:
        """Bytes of the file."""
        return self._sizes.of_file(schemes)


def target_for(program: Program | None, checkpoint: Checkpoint, output: Path, *, int8_cache: bool = False) -> Target:
    """Target of what `checkpoint` becomes in the folder `output` (None: an ONNX model)."""
    return OnnxTarget(checkpoint.config, int8_cache) if program is None else GgufTarget(checkpoint, output)
