"""GPTQ: `qweight` of packed codes with `scales`, `qzeros` and, for an order of columns, `g_idx`.

Layout: that of AutoGPTQ and GPTQModel, as transformers loads it (checkpoint_format "gptq", and "gptq_v2" of GPTQModel).
Codes lie along K in 32-bit words, the first in the lowest bits; zero points along N, one less than they are in "gptq".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.fields import shown
from q3edge.architecture.tensors import matrix_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.bit_packing import unpack_words
from q3edge.checkpoint.column_order import OrderedMatrix
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.matrix import Integers, Parts, StoredMatrix, require_matrices, take_parts
from q3edge.checkpoint.model_format import ModelFormat, quantization_method, quantization_settings
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES
from q3edge.checkpoint.tensor_files import Expected
from q3edge.errors import InputError
from q3edge.quantization.tensor import UInt8Array

GPTQ_PARTS: Final = (("qweight", "qzeros", "scales"), ("g_idx",))  # needed, optional
_WORD_BITS = 32
_WIDTHS = (2, 4, 8)
_ONE_LESS: Mapping[object, int] = {"gptq": 1, "gptq_v2": 0}  # what stored zero points lack


class GptqMatrix(OrderedMatrix):
    """Matrix of a GPTQ checkpoint. Bits and group size are those that the shapes tell, as tools set them by layer.

    stored_zero: what is added to a stored zero point.
    """

    def __init__(self, parts: Parts, shape: tuple[int, int], stored_zero: int) -> None:
        words, groups = parts.shape("qweight")[:1], parts.shape("scales")[:1]
        bits = _WORD_BITS * words[0] // shape[1] if words else 0
        if bits not in _WIDTHS:
            raise InputError(f"{parts.where('qweight')}: {bits} bits a code; expected 2, 4 or 8, quantize it anew")
        if not groups or not groups[0] or shape[1] % groups[0]:
            raise InputError(f"{parts.where('scales')}: {groups} groups do not divide the width {shape[1]}")
        super().__init__(parts, shape, bits, shape[1] // groups[0], "g_idx")
        self.label, self._stored_zero = f"GPTQ {bits} bits", stored_zero

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        rows, width = self.shape
        groups, per_word = width // self.group_size, _WORD_BITS // self.bits
        parts: dict[str, Expected] = {
            "qweight": (("I32",), (width // per_word, rows)),
            "qzeros": (("I32",), (groups, -(-rows // per_word))),
            "scales": (FLOAT_DTYPES, (groups, rows)),
        }
        return {**parts, **self.expected_order}

    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop."""
        packed = np.ascontiguousarray(self.parts.read("qweight")[:, rows].T)
        return Integers(unpack_words(packed, self.bits), *self.grid(rows))

    def grid(self, rows: slice) -> tuple[NDArray[np.float32], UInt8Array]:
        """Read scales and zero points of rows start:stop."""
        scales = np.ascontiguousarray(self.parts.read_float("scales")[:, rows].T)
        stored = unpack_words(np.ascontiguousarray(self.parts.read("qzeros")), self.bits)[:, : self.shape[0]]
        zero_points = (stored[:, rows].T + np.uint8(self._stored_zero)) & np.uint8((1 << self.bits) - 1)
        return scales, np.ascontiguousarray(zero_points)


class GptqCheckpoint(Checkpoint):
    """GPTQ checkpoint: config.json says `quant_method: gptq`, some matrices are packed, others float."""

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        settings = quantization_settings(raw_config)
        stored_zero = _ONE_LESS[self._layout(settings)]
        matrices: dict[str, GptqMatrix] = {}
        for name, shape in matrix_shapes(self.config).items():
            if parts := take_parts(self._files, stored, name, *GPTQ_PARTS):
                matrices[name] = GptqMatrix(parts, shape, stored_zero)
        self._notices += _contradictions(settings, [*matrices.values()])
        return require_matrices({**matrices}, self.folder, "gptq")

    def _layout(self, settings: Mapping[str, Any]) -> str:
        for field in ("checkpoint_format", "format"):
            layout = settings.get(field) or "gptq"
            if layout not in ("gptq", "gptq_v2"):
                raise InputError(
                    f"{self.folder / CONFIG_FILE}: {field} {shown(layout)}: of GPTQ's layouts only gptq and gptq_v2 "
                    "are read; start from the original model"
                )
        return str(settings.get("checkpoint_format") or settings.get("format") or "gptq")


def _contradictions(settings: Mapping[str, Any], matrices: Sequence[GptqMatrix]) -> Iterator[Notice]:
    """Notices of matrices whose shapes are of other bits or groups than config.json says anywhere.

    Patterns of `dynamic` are regular expressions of an unknown file, and are not run: what they say of any matrix goes.
    """
    dynamic = settings.get("dynamic")
    places = [settings, *(dynamic.values() if isinstance(dynamic, Mapping) else ())]
    for field, code in (("bits", "bits-contradicted"), ("group_size", "groups-contradicted")):
        values = [place.get(field) for place in places if isinstance(place, Mapping)]
        said = sorted({value for value in values if type(value) is int})
        found = Counter(getattr(matrix, field) for matrix in matrices if not _says(said, field, matrix))
        for value, count in found.items():
            detail = (
                f"matrices have {f'{value} bits' if field == 'bits' else f'groups of {value}'} by their shapes, which "
                f"were taken, though config.json says {field} = {' or '.join(map(shown, said))}; if answers are wrong, "
                "it is another model's"
            )
            yield Notice(code, count, detail)


def _says(said: Sequence[int], field: str, matrix: GptqMatrix) -> bool:
    """Tell whether a matrix is as `said`, if anything is: groups as wide as it, or wider, or -1, are its whole rows."""
    width = matrix.shape[1]
    if field == "group_size":
        said = [min(size, width) if size > 0 else width for size in said]
    return not said or getattr(matrix, field) in said


def _recognises(path: Path) -> bool:
    return quantization_method(path) == "gptq"


GPTQ: Final = ModelFormat("GPTQ", _recognises, GptqCheckpoint.open)
