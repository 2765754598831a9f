"""AWQ: `qweight` and `qzeros` of 4-bit codes packed along N, and `scales`, as AutoAWQ's "gemm" layout has them.

A 32-bit word holds eight neighbours along N, from its lowest bits on those numbered 0, 2, 4, 6, 1, 3, 5, 7. Zero points
are stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.fields import shown
from q3edge.architecture.tensors import matrix_shapes
from q3edge.checkpoint.bit_packing import unpack_words
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.matrix import IntegerMatrix, Integers, Parts, StoredMatrix, require_matrices, take_parts
from q3edge.checkpoint.model_format import ModelFormat, quantization_method, quantization_settings
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES
from q3edge.checkpoint.tensor_files import Expected
from q3edge.errors import InputError
from q3edge.quantization.tensor import UInt8Array

AWQ_PARTS: Final = ("qweight", "qzeros", "scales")
_BITS = 4
_PER_WORD = 8
_PLACE_OF = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # of each neighbour in its word
_LAYOUTS = ("gemm", "exllama", "exllamav2", "ipex")  # kernels that load the same files
_LAYOUT_FIELDS = ("version", "format", "checkpoint_format")


class AwqMatrix(IntegerMatrix):
    """Matrix of an AWQ checkpoint; its groups are those that the shapes tell."""

    def __init__(self, parts: Parts, shape: tuple[int, int]) -> None:
        rows, width = shape
        stored, groups = parts.shape("qweight"), parts.shape("scales")[:1]
        if stored != (width, rows // _PER_WORD) or rows % _PER_WORD:
            raise InputError(
                f"{parts.where('qweight')}: shape {list(stored)}, expected {[width, rows // _PER_WORD]} for AWQ of 4 "
                f"bits of {list(shape)}; start from the original model"
            )
        if not groups or not groups[0] or width % groups[0]:
            raise InputError(f"{parts.where('scales')}: {list(groups)} groups do not divide the width {width}")
        super().__init__(parts, shape, _BITS, width // groups[0])
        self.label = "AWQ 4 bits"

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        rows, width = self.shape
        groups = width // self.group_size
        return {
            "qweight": (("I32",), (width, rows // _PER_WORD)),
            "qzeros": (("I32",), (groups, rows // _PER_WORD)),
            "scales": (FLOAT_DTYPES, (groups, rows)),
        }

    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop."""
        return Integers(self._unpacked("qweight", rows), *self.grid(rows))

    def grid(self, rows: slice) -> tuple[NDArray[np.float32], UInt8Array]:
        """Read scales and zero points of rows start:stop."""
        scales = np.ascontiguousarray(self.parts.read_float("scales")[:, rows].T)
        return scales, self._unpacked("qzeros", rows)

    def _unpacked(self, part: str, rows: slice) -> UInt8Array:
        """Codes of a part that is packed along N: uint8 [n, K or groups]."""
        first, last = rows.start // _PER_WORD, -(-rows.stop // _PER_WORD)
        stored = np.ascontiguousarray(self.parts.read(part)[:, first:last])
        codes = unpack_words(stored, _BITS).reshape(len(stored), -1, _PER_WORD)[:, :, _PLACE_OF]
        skip = rows.start - first * _PER_WORD
        flat = codes.reshape(len(stored), -1)
        return np.ascontiguousarray(flat[:, skip : skip + rows.stop - rows.start].T)


class AwqCheckpoint(Checkpoint):
    """AWQ checkpoint: config.json says `quant_method: awq`, some matrices are packed, others float."""

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        settings = quantization_settings(raw_config)
        for field in _LAYOUT_FIELDS:
            layout = settings.get(field) or "gemm"
            if str(layout).lower() not in _LAYOUTS:
                raise InputError(
                    f"{self.folder / CONFIG_FILE}: {field} {shown(layout)}: of AWQ's layouts only gemm is read; start "
                    "from the original model"
                )
        matrices: dict[str, StoredMatrix] = {}
        for name, shape in matrix_shapes(self.config).items():
            if parts := take_parts(self._files, stored, name, AWQ_PARTS):
                matrices[name] = AwqMatrix(parts, shape)
        return require_matrices(matrices, self.folder, "awq")


def _recognises(path: Path) -> bool:
    return quantization_method(path) == "awq"


AWQ: Final = ModelFormat("AWQ", _recognises, AwqCheckpoint.open)
