"""MLX: `weight` of packed codes with a float scale and a float minimum for each group: value = scale * code + bias.

mlx.core.quantize makes 0 one of the values, so that a bias is -scale times an integer, but for its rounding.

Layout: mlx.core.quantize, as mlx-lm stores it. Codes lie along K in 32-bit words, the first in the lowest bits; those
of 3, 5 and 6 bits go over from one word into the next. mlx-lm stacks the matrices of a layer's experts (`switch_mlp`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.fields import shown
from q3edge.architecture.layer import layer_prefix
from q3edge.architecture.tensors import tensor_shapes
from q3edge.checkpoint.bit_packing import WORD_BITS, unpack_words
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.matrix import IntegerMatrix, Integers, Parts, StoredMatrix, require_matrices, take_parts
from q3edge.checkpoint.model_format import ModelFormat, stated_config
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES
from q3edge.checkpoint.tensor_files import Expected
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import UInt8Array

_BITS: Final = (2, 3, 4, 5, 6, 8)
_FIELDS: Final = ("quantization", "quantization_config")  # newer versions of mlx-lm write both
_PARTS: Final = ("scales", "biases", "weight")
_ROWS: Final = 1024
_MOST: Final = 0.1  # of a step: 8 bits with minima in bfloat16 would move by half a one, further than rounding anew
_ROUNDING: Final = {"BF16": 2**-8, "F16": 2**-11, "F32": 2**-22}  # of scale and minimum together, of the minimum


class MlxMatrix(IntegerMatrix):
    """Matrix of an MLX checkpoint. Bits and group size are those that the shapes tell, as mlx-lm sets them by layer."""

    def __init__(self, parts: Parts, shape: tuple[int, int]) -> None:
        words, groups = parts.shape("weight")[1:], parts.shape("scales")[1:]
        bits = WORD_BITS * words[0] / shape[1] if words else 0
        if bits not in _BITS:
            raise InputError(f"{parts.where('weight')}: {bits:g} bits a code; expected {_BITS[0]} to {_BITS[-1]}")
        if not groups or not groups[0] or shape[1] % groups[0]:
            raise InputError(f"{parts.where('scales')}: {shown([*groups])} groups do not divide the width {shape[1]}")
        super().__init__(parts, shape, int(bits), shape[1] // groups[0])
        self.label = f"MLX {int(bits)} bits"

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        rows, width = self.shape
        groups = (rows, width // self.group_size)
        return {
            "weight": (("U32",), (rows, width * self.bits // WORD_BITS)),
            "scales": (FLOAT_DTYPES, groups),
            "biases": (FLOAT_DTYPES, groups),
        }

    @property
    def scheme(self) -> Scheme | None:
        """Scheme with these codes; None too where a minimum is no multiple of its scale."""
        return None if self._moved is None else super().scheme

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes."""
        return "its minima are no multiples of its scales" if self._moved is None else super().why_not

    @property
    def approximation(self) -> str | None:
        """What the scheme's values differ by: minima that are multiples of their scales but for their rounding."""
        return (
            f"minima are taken before their rounding, up to {_MOST:g} of a step between codes" if self._moved else None
        )

    @cached_property
    def _moved(self) -> float | None:
        """Largest move, in steps, of a minimum that becomes -scale times a zero point; None: not all can."""
        blocks = range(0, self.shape[0], _ROWS)
        moves = [self._zero_points(slice(start, min(start + _ROWS, self.shape[0])))[1] for start in blocks]
        return max((move for move in moves if move is not None), default=0.0) if None not in moves else None

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K]: scale * code + bias."""
        scales, biases = self._floats(rows)
        grouped = self._codes(rows).reshape(*scales.shape, self.group_size).astype(np.float32)
        values: NDArray[np.float32] = scales[:, :, None] * grouped + biases[:, :, None]
        return values.reshape(len(scales), self.shape[1])

    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop."""
        return Integers(self._codes(rows), *self.grid(rows))

    def grid(self, rows: slice) -> tuple[NDArray[np.float32], UInt8Array]:
        """Read scales and zero points of rows start:stop."""
        return self.parts.read_float("scales", rows), self._zero_points(rows)[0]

    def _floats(self, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.parts.read_float("scales", rows), self.parts.read_float("biases", rows)

    def _zero_points(self, rows: slice) -> tuple[UInt8Array, float | None]:
        """Nearest zero points, and how far minima move at most, in steps; None: too far."""
        scales, biases = self._floats(rows)
        steps = np.divide(-biases, scales, out=np.full_like(scales, -1), where=scales != 0)
        found = np.rint(steps).clip(0, (1 << self.bits) - 1)
        moves = np.abs(found - steps)
        allowed = _ROUNDING[self.parts.files.entries[self.parts.stored["scales"]].dtype] * np.abs(steps)
        fits = bool((moves <= np.minimum(allowed, _MOST)).all())
        return found.astype(np.uint8), float(moves.max(initial=0)) if fits else None

    def _codes(self, rows: slice) -> UInt8Array:
        packed = self.parts.read("weight", rows)
        if WORD_BITS % self.bits == 0:
            return unpack_words(packed, self.bits)
        stream = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")
        powers = (1 << np.arange(self.bits)).astype(np.uint8)
        codes: UInt8Array = (stream.reshape(len(packed), -1, self.bits) * powers).sum(axis=2, dtype=np.uint8)
        return codes


class MlxCheckpoint(Checkpoint):
    """MLX checkpoint: config.json has `quantization`, some matrices are packed, others float."""

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        self._check_mode(raw_config)
        self._divide_experts(stored)
        matrices: dict[str, StoredMatrix] = {}
        for name, shape in tensor_shapes(self.config).items():
            if parts := take_parts(self._files, stored, name, _PARTS):
                matrices[name] = MlxMatrix(parts, (shape[0], shape[1]))
        return require_matrices(matrices, self.folder, "MLX")

    def _check_mode(self, raw_config: Mapping[str, Any]) -> None:
        settings = _settings(raw_config) or {}
        modes = [settings.get("mode", "affine")]
        modes += [own.get("mode", "affine") for own in settings.values() if isinstance(own, Mapping)]
        if other := [mode for mode in modes if mode != "affine"]:
            raise InputError(
                f"{self.folder / CONFIG_FILE}: quantization: mode = {shown(other[0])}: expected affine; quantize the "
                "original model instead"
            )

    def _divide_experts(self, stored: dict[str, str]) -> None:
        """Divide stacked tensors of all experts, [E, N, ...], into those of each, with transformers' names."""
        if self.config.moe is None:
            return
        count = self.config.moe.num_experts
        for layer in filter(self.config.is_moe_layer, range(self.config.num_hidden_layers)):
            prefix = f"{layer_prefix(layer)}mlp."
            for matrix in ("gate_proj", "up_proj", "down_proj"):
                for part in _PARTS:
                    name = f"{prefix}switch_mlp.{matrix}.{part}"
                    if name not in stored:
                        continue
                    shape = self._files.entries[stored[name]].shape
                    if len(shape) != 3 or shape[0] != count:
                        where = f"{self._files.path_of(stored[name])} ({name})"
                        raise InputError(f"{where}: shape {list(shape)}, expected the matrices of {count} experts")
                    parts = {f"{prefix}experts.{expert}.{matrix}.{part}": shape[1:] for expert in range(count)}
                    self._files.divide(stored.pop(name), parts)
                    stored.update({expert: expert for expert in parts})


def _settings(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Settings of MLX in config.json, which name no method; None: it has none."""
    for field in _FIELDS:
        settings = raw.get(field)
        if isinstance(settings, Mapping) and "quant_method" not in settings and {"bits", "group_size"} <= set(settings):
            return settings
    return None


def _recognises(path: Path) -> bool:
    return _settings(stated_config(path)) is not None


MLX: Final = ModelFormat("MLX", _recognises, MlxCheckpoint.open)
