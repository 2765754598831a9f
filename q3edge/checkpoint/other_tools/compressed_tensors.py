"""compressed-tensors as llm-compressor and other tools write it; q3edge's own folders have a reader of their own.

pack-quantized: `weight_packed` of codes along K in 32-bit words, the first in the lowest bits. int-quantized: `weight`
of signed bytes. Zero points are packed along N, or signed bytes too. float-quantized: `weight` of 8-bit floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.tensors import EMBEDDING, matrix_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.bit_packing import WORD_BITS, unpack_words, words
from q3edge.checkpoint.column_order import OrderedMatrix
from q3edge.checkpoint.compressed_tensors.settings import METHOD
from q3edge.checkpoint.float8 import Float8Matrix
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.matrix import Integers, Parts, StoredMatrix, require_matrices, take_parts
from q3edge.checkpoint.model_format import ModelFormat, quantization_method, quantization_settings
from q3edge.checkpoint.other_tools.compressed_tensors_settings import Settings, read_settings
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES
from q3edge.checkpoint.tensor_files import Expected, TensorFiles
from q3edge.errors import InputError
from q3edge.quantization.tensor import UInt8Array

_WIDTHS = (2, 4, 8)
_OF_INPUTS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
_OF_CACHES = tuple(f".{cache}_{part}" for cache in "qkv" for part in ("scale", "zero_point"))


class CompressedMatrix(OrderedMatrix):
    """Integer weights of compressed-tensors; codes of the library are ours minus 2**(bits-1).

    per_token: the checkpoint rounds the layer's inputs to int8 with a scale for each token.
    """

    may_be_unset = True

    def __init__(self, parts: Parts, shape: tuple[int, int], bits: int, *, per_token: bool) -> None:
        stored, width = parts.shape("weight_scale"), shape[1]
        self._one_scale = stored in ((), (1,), (1, 1))
        groups = 1 if self._one_scale or len(stored) != 2 else stored[1]
        if not groups or width % groups:
            raise InputError(f"{parts.where('weight_scale')}: {groups} groups do not divide the width {width}")
        super().__init__(parts, shape, bits, width // groups, "weight_g_idx")
        self._per_token = per_token
        self.label = f"compressed-tensors {bits} bits{' with int8 inputs' if self.rounds_inputs else ''}"

    @property
    def rounds_inputs(self) -> bool:
        """Whether the layer is W8A8 as q3edge has it: one scale for a row, symmetric, inputs rounded by token."""
        whole = self.bits == 8 and self.group_size == self.shape[1] and "weight_zero_point" not in self.parts.stored
        return whole and self._per_token

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        parts, (rows, width) = self.parts, self.shape
        groups = width // self.group_size
        scales = parts.shape("weight_scale") if self._one_scale else (rows, groups)
        found: dict[str, Expected] = {"weight_scale": (FLOAT_DTYPES, scales), **self.expected_order}
        if "weight_packed" in parts.stored:
            found["weight_packed"] = (("I32",), (rows, words(width, self.bits)))
            found["weight_shape"] = (("I64", "I32"), (2,))
        else:
            found["weight"] = (("I8",), self.shape)
        if "weight_zero_point" in parts.stored:
            packed = (("I32",), (words(rows, self.bits), groups))
            found["weight_zero_point"] = packed if self._packed_zero_points else (("I8",), scales)
        return found

    @property
    def _packed_zero_points(self) -> bool:
        entry = self.parts.files.entries[self.parts.stored["weight_zero_point"]]
        return "weight_packed" in self.parts.stored and entry.dtype == "I32"

    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop; InputError: bytes that are no codes of so few bits."""
        if "weight_packed" in self.parts.stored:
            codes = unpack_words(self.parts.read("weight_packed", rows), self.bits)[:, : self.shape[1]]
        else:
            codes = self._unsigned("weight", rows)
        return Integers(np.ascontiguousarray(codes), *self.grid(rows))

    def grid(self, rows: slice) -> tuple[NDArray[np.float32], UInt8Array | None]:
        """Read scales and zero points of rows start:stop."""
        count = rows.stop - rows.start
        if self._one_scale:
            scales = np.full((count, 1), self.parts.read_float("weight_scale").reshape(-1)[0])
        else:
            scales = self.parts.read_float("weight_scale", rows)
        if "weight_zero_point" not in self.parts.stored:
            return scales, None
        if self._one_scale:
            return scales, np.full((count, 1), self._unsigned("weight_zero_point").reshape(-1)[0])
        if not self._packed_zero_points:
            return scales, self._unsigned("weight_zero_point", rows)
        first = rows.start * self.bits // WORD_BITS
        stored = self.parts.read("weight_zero_point", slice(first, words(rows.stop, self.bits)))
        skip = rows.start - first * WORD_BITS // self.bits
        unpacked = unpack_words(np.ascontiguousarray(stored.T), self.bits).T
        return scales, np.ascontiguousarray(unpacked[skip : skip + count])

    def _unsigned(self, part: str, rows: slice | None = None) -> UInt8Array:
        signed = self.parts.read(part, rows)
        middle = 1 << (self.bits - 1)
        if signed.size and (signed.min() < -middle or signed.max() >= middle):
            raise InputError(f"{self.parts.where(part)}: values outside the range of {self.bits} bits; it is damaged")
        return np.asarray(signed.view(np.uint8) + np.uint8(middle))


class CompressedCheckpoint(Checkpoint):
    """Checkpoint of compressed-tensors: what a matrix is stands in its tensors, the rest in config.json's groups."""

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        settings = read_settings(quantization_settings(raw_config), f"{self.folder / CONFIG_FILE}")
        matrices: dict[str, StoredMatrix] = {}
        not_rounded = 0
        for name, shape in matrix_shapes(self.config).items():
            taken = _take(self._files, stored, name)
            if taken is None:
                continue
            matrices[name], asked = _matrix(taken, name, shape, settings)
            found = matrices[name]
            not_rounded += asked and not (isinstance(found, CompressedMatrix) and found.rounds_inputs)
        if not_rounded:
            detail = "layers whose inputs the checkpoint rounds in a way that q3edge has not take them as floats"
            self._notices.append(Notice("inputs-not-rounded", not_rounded, detail))
        if caches := [name for name in stored if name.endswith(_OF_CACHES)]:
            detail = "scales of the checkpoint's own 8-bit KV cache were ignored; --kv int8 measures new ones"
            self._notices.append(Notice("cache-scales-ignored", len(caches), detail))
        for name in caches:
            del stored[name]
        return require_matrices(matrices, self.folder, METHOD)


def _take(files: TensorFiles, stored: dict[str, str], name: str) -> Parts | None:
    others = ("weight_zero_point", "weight_g_idx", *_OF_INPUTS)
    if parts := take_parts(files, stored, name, ("weight_packed", "weight_scale", "weight_shape"), others):
        return parts
    return take_parts(files, stored, name, ("weight_scale", "weight"), others)


def _matrix(parts: Parts, name: str, shape: tuple[int, int], settings: Settings) -> tuple[StoredMatrix, bool]:
    """Make the matrix of a weight; returns also whether the checkpoint rounds its layer's inputs."""
    if "weight_packed" in parts.stored:
        bits = _packed_bits(parts, shape)
    elif parts.files.entries[parts.stored["weight"]].dtype == "F8_E4M3":
        group = settings.group(name, "float")
        _check_no_zero_points(parts)
        return Float8Matrix(parts, shape, "weight_scale", group.block), group.inputs != "float"
    else:
        stated = settings.group(name, "int").bits
        bits = stated if stated in _WIDTHS else 8  # a whole byte has room for all
    group = settings.group(name, "int")
    per_token = group.inputs == "int8_per_token" and name != EMBEDDING and ".experts." not in name
    return CompressedMatrix(parts, shape, bits, per_token=per_token), group.inputs != "float" and name != EMBEDDING


def _packed_bits(parts: Parts, shape: tuple[int, int]) -> int:
    stored = parts.shape("weight_packed")
    bits = next((bits for bits in _WIDTHS if stored[1:] == (words(shape[1], bits),)), None)
    if bits is None:
        raise InputError(
            f"{parts.where('weight_packed')}: shape {list(stored)}: no codes of 2, 4 or 8 bits for {list(shape)}; "
            "start from the original model"
        )
    if parts.shape("weight_shape") == (2,) and parts.read("weight_shape").tolist() != list(shape):
        raise InputError(
            f"{parts.where('weight_shape')}: not {list(shape)}, which config.json asks for; the checkpoint is damaged "
            "or config.json is another model's"
        )
    return bits


def _check_no_zero_points(parts: Parts) -> None:
    if "weight_zero_point" in parts.stored and parts.read("weight_zero_point").view(np.uint8).any():
        raise InputError(f"{parts.where('weight_zero_point')}: 8-bit floats with zero points; expected none, or zeros")


def _recognises(path: Path) -> bool:
    return quantization_method(path) == METHOD


COMPRESSED_TENSORS_OF_OTHERS: Final = ModelFormat("compressed-tensors", _recognises, CompressedCheckpoint.open)
