"""FP8 of DeepSeek's kind, as Qwen publishes it: `weight` of 8-bit floats and `weight_scale_inv`, a scale per block.

Layout: transformers' finegrained_fp8 (quant_method "fp8"), blocks of 128 x 128 unless `weight_block_size` says others;
null: one scale for a matrix. vLLM's older tools call the scale `weight_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.fields import shown
from q3edge.architecture.tensors import matrix_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.float8 import Float8Matrix
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.matrix import StoredMatrix, require_matrices, take_parts
from q3edge.checkpoint.model_format import ModelFormat, quantization_method, quantization_settings
from q3edge.errors import InputError

_SCALES: Mapping[str, object] = {"weight_scale_inv": [128, 128], "weight_scale": None}  # and blocks not named
_OF_INPUTS = ("input_scale", "activation_scale")


class Fp8Checkpoint(Checkpoint):
    """FP8 checkpoint: config.json says `quant_method: fp8`; matrices without a scale beside them are float."""

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        settings = quantization_settings(raw_config)
        matrices: dict[str, StoredMatrix] = {}
        rounded = 0
        for scale, by_default in _SCALES.items():
            block = self._block(settings.get("weight_block_size", by_default))
            for name, shape in matrix_shapes(self.config).items():
                if parts := take_parts(self._files, stored, name, (scale, "weight"), _OF_INPUTS):
                    matrices[name] = Float8Matrix(parts, shape, scale, block)
                    rounded += any(part in parts.stored for part in _OF_INPUTS)
        if rounded:
            detail = "scales for inputs rounded to float8 were ignored: inputs stay float"
            self._notices.append(Notice("input-scales-ignored", rounded, detail))
        return require_matrices(matrices, self.folder, "fp8")

    def _block(self, stated: object) -> tuple[int, int] | None:
        if stated is None:
            return None
        if (
            not isinstance(stated, list)
            or len(stated) != 2
            or not all(type(size) is int and 0 < size < 1 << 31 for size in stated)
        ):
            raise InputError(
                f"{self.folder / CONFIG_FILE}: weight_block_size {shown(stated)}: expected two sizes, or null"
            )
        return stated[0], stated[1]


def _recognises(path: Path) -> bool:
    return quantization_method(path) == "fp8"


FP8: Final = ModelFormat("FP8", _recognises, Fp8Checkpoint.open)
