"""bitsandbytes: 4-bit floats, nf4 and fp4, with a scale for each block of the flattened matrix, and int8 by rows.

4 bits: `weight` of two codes a byte, the first in the high bits; `weight.quant_map`, the value of each code;
`weight.absmax`, the scales, maybe 8-bit codes themselves ("double quantization": `weight.nested_absmax` and
`weight.nested_quant_map`); `weight.quant_state.bitsandbytes__nf4`, JSON in bytes. int8: `weight` and `SCB`, the largest
weight of each row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.fields import shown
from q3edge.architecture.tensors import matrix_shapes
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.matrix import IntegerMatrix, Integers, Parts, StoredMatrix, require_matrices, take_parts
from q3edge.checkpoint.model_format import ModelFormat, quantization_method
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES
from q3edge.checkpoint.tensor_files import Expected
from q3edge.errors import InputError

_KINDS = ("nf4", "fp4")
_STATE = "weight.quant_state.bitsandbytes__"
_MAX_STATE_BYTES = 10_000
_NESTED = ("weight.nested_absmax", "weight.nested_quant_map")
_STORAGE = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}  # bytes of a number that codes may be stored as


class FourBitMatrix(StoredMatrix):
    """Matrix of nf4 or fp4: value = quant_map[code] * absmax of its block."""

    def __init__(self, parts: Parts, shape: tuple[int, int], kind: str) -> None:
        super().__init__(parts, shape)
        self.label, self._state_part = f"bitsandbytes {kind}", _STATE + kind
        state = self._state(kind)
        self._block = self._positive(state, "blocksize")
        self._nested = _NESTED[0] in parts.stored
        self._nested_block = self._positive(state, "nested_blocksize") if self._nested else 1
        self._offset = np.float32(self._number(state, "nested_offset")) if self._nested else np.float32(0)

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        numbers = math.prod(self.shape)
        dtype = self.parts.files.entries[self.parts.stored["weight"]].dtype
        blocks = -(-numbers // self._block)
        found: dict[str, Expected] = {
            "weight": (tuple(_STORAGE), (-(-numbers // (2 * _STORAGE.get(dtype, 1))), 1)),
            "weight.quant_map": (("F32",), (16,)),
            "weight.absmax": (("U8",) if self._nested else ("F32",), (blocks,)),
        }
        if self._nested:
            found[_NESTED[0]] = (("F32",), (-(-blocks // self._nested_block),))
            found[_NESTED[1]] = (("F32",), (256,))
        return found

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes."""
        return "its 16 values are not evenly spaced"

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K]."""
        first, last = rows.start * self.shape[1], rows.stop * self.shape[1]
        values = self.parts.read_float("weight.quant_map")[self._codes(first, last)]
        blocks = slice(first // self._block, -(-last // self._block))
        scales = self._scales(blocks).repeat(self._block)
        skip = first - blocks.start * self._block
        values *= scales[skip : skip + last - first]
        return values.reshape(-1, self.shape[1])

    def _codes(self, first: int, last: int) -> NDArray[np.uint8]:
        """Codes first:last of the flattened matrix."""
        size = 2 * _STORAGE[self.parts.files.entries[self.parts.stored["weight"]].dtype]  # codes of a stored number
        stored = self.parts.read("weight", slice(first // size, -(-last // size)))
        pairs = np.ascontiguousarray(stored).view(np.uint8).reshape(-1)
        codes = np.empty((len(pairs), 2), np.uint8)
        np.right_shift(pairs, 4, out=codes[:, 0])
        np.bitwise_and(pairs, 15, out=codes[:, 1])
        skip = first % size
        return codes.reshape(-1)[skip : skip + last - first]

    def _scales(self, blocks: slice) -> NDArray[np.float32]:
        if not self._nested:
            return self.parts.read_float("weight.absmax", blocks)
        codes = self.parts.read("weight.absmax", blocks)
        outer = self.parts.read_float(_NESTED[0])[np.arange(blocks.start, blocks.stop) // self._nested_block]
        return np.asarray(self.parts.read_float(_NESTED[1])[codes] * outer + self._offset)

    def _state(self, kind: str) -> Mapping[str, Any]:
        part = self._state_part
        entry, where = self.parts.files.entries[self.parts.stored[part]], self.parts.where(part)
        if entry.dtype != "U8" or math.prod(entry.shape) > _MAX_STATE_BYTES:
            raise InputError(f"{where}: {entry.dtype} {list(entry.shape)}: expected a JSON object in a few bytes")
        try:
            state: object = json.loads(self.parts.read(part).tobytes())
        except (ValueError, RecursionError):
            state = None
        if not isinstance(state, dict):
            raise InputError(f"{where}: not a JSON object; the checkpoint is damaged, download it again")
        for field, expected in (("quant_type", kind), ("shape", list(self.shape))):
            if state.get(field) != expected:
                raise InputError(f"{where}: {field} {shown(state.get(field))}: expected {shown(expected)}")
        return state

    def _positive(self, state: Mapping[str, Any], field: str) -> int:
        value = state.get(field)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise InputError(f"{self.parts.where(self._state_part)}: {field} {shown(value)}: expected a positive size")
        return value

    def _number(self, state: Mapping[str, Any], field: str) -> float:
        value = state.get(field)
        if not isinstance(value, int | float) or not abs(value) < 1e30:
            raise InputError(f"{self.parts.where(self._state_part)}: {field} {shown(value)}: expected a number")
        return float(value)


class RowsMatrix(IntegerMatrix):
    """Matrix of LLM.int8(): signed bytes, of which 127 stands for the largest weight of the row."""

    def __init__(self, parts: Parts, shape: tuple[int, int]) -> None:
        super().__init__(parts, shape, 8, shape[1])
        self.label = "bitsandbytes int8"
        if "weight_format" in parts.stored and np.any(parts.read("weight_format") != 0):
            raise InputError(f"{parts.where('weight_format')}: only weights by rows (0) are read; save it again")

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        return {"weight": (("I8",), self.shape), "SCB": (FLOAT_DTYPES, self.shape[:1])}

    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop."""
        return Integers(self.parts.read("weight", rows).view(np.uint8) + np.uint8(128), *self.grid(rows))

    def grid(self, rows: slice) -> tuple[NDArray[np.float32], None]:
        """Read scales of rows start:stop; zero points are 128."""
        return (self.parts.read_float("SCB", rows) / np.float32(127))[:, None], None


class BitsAndBytesCheckpoint(Checkpoint):
    """Checkpoint of bitsandbytes: config.json says `quant_method: bitsandbytes`; matrices are packed or float."""

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        matrices: dict[str, StoredMatrix] = {}
        for name, shape in matrix_shapes(self.config).items():
            if parts := take_parts(self._files, stored, name, ("SCB", "weight"), ("weight_format",)):
                matrices[name] = RowsMatrix(parts, shape)
            for kind in _KINDS:
                nested = _NESTED if name.removesuffix("weight") + _NESTED[0] in stored else ()
                needed = (_STATE + kind, "weight", "weight.absmax", "weight.quant_map", *nested)
                if parts := take_parts(self._files, stored, name, needed):
                    matrices[name] = FourBitMatrix(parts, shape, kind)
        return require_matrices(matrices, self.folder, "bitsandbytes")


def _recognises(path: Path) -> bool:
    return quantization_method(path) == "bitsandbytes"


BITSANDBYTES: Final = ModelFormat("bitsandbytes", _recognises, BitsAndBytesCheckpoint.open)
