"""GPTQ layout, with a checkpoint's codes as they are: what GPTQModel, transformers and vLLM run.

Layout: `q3edge.checkpoint.other_tools.gptq`. Symmetric models are of the first version, whose zero points are stored
one less than they are, as everything reads it; others of the second ("gptq_v2"), which has a place for a zero of 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint import ModelFolder
from q3edge.checkpoint.bit_packing import WORD_BITS, pack_words, words
from q3edge.errors import InputError
from q3edge.exporters.packed_folder import PackedLayout, StoredPart, stored_by, write_packed_folder
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor


class GptqLayout(PackedLayout):
    """GPTQ's layout of matrices. symmetric: all are; it decides the version."""

    name, group_sizes, has_tables, by_rows = "GPTQ", (16, 32, 64, 128, 256), False, False

    def __init__(self, symmetric: bool) -> None:
        self._one_less = 1 if symmetric else 0

    def parts(self, shape: tuple[int, int], scheme: Scheme) -> Mapping[str, StoredPart]:
        """Parts of a matrix [N, K]: qweight [K*bits/32, N], qzeros [K/G, N*bits/32], scales [K/G, N], g_idx [K]."""
        rows, width = shape
        groups = scheme.groups(width)
        return {
            "qweight": ("I32", (words(width, scheme.bits), rows)),
            "qzeros": ("I32", (groups, words(rows, scheme.bits))),
            "scales": ("F16", (groups, rows)),
            "g_idx": ("I32", (width,)),
        }

    def encode(self, block: QuantizedTensor, _where: str) -> Mapping[str, NDArray[Any]]:
        """Encode a whole matrix."""
        scheme, width = block.scheme, block.shape[1]
        zero_points = block.zero_points
        if zero_points is None:
            zero_points = np.full(block.scales.shape, scheme.implicit_zero_point, np.uint8)
        return {
            "qweight": pack_words(block.codes, scheme.bits).T,
            "qzeros": pack_words(np.ascontiguousarray((zero_points - np.uint8(self._one_less)).T), scheme.bits),
            "scales": block.scales.astype(np.float16).T,
            "g_idx": np.arange(width, dtype=np.int32) // np.int32(width // scheme.groups(width)),
        }

    def config(self, schemes: Mapping[str, Scheme | None]) -> Mapping[str, Any]:
        """Settings: those of most matrices, and by name those of the others."""
        matrices = {name: scheme for name, scheme in schemes.items() if name.endswith("_proj.weight")}
        usual = Counter(scheme for scheme in matrices.values() if scheme is not None).most_common(1)[0][0]
        others: dict[str, Any] = {}
        for name, scheme in matrices.items():
            pattern = f"^{re.escape(name.removesuffix('.weight'))}$"
            if scheme is None:
                others[f"-:{pattern}"] = {}
            elif scheme != usual:
                others[f"+:{pattern}"] = _settings(scheme)
        settings = {
            "quant_method": "gptq", **_settings(usual), "desc_act": False, "lm_head": False, "pack_dtype": "int32",
            "checkpoint_format": "gptq" if self._one_less else "gptq_v2", **({"dynamic": others} if others else {}),
        }  # fmt: skip
        return {"quantization_config": settings}


def write_gptq(source: ModelFolder, folder: Path) -> tuple[Notice, ...]:
    """Write a GPTQ checkpoint; returns notices of what differs.

    InputError: widths that do not fill 32-bit words, or scales that float16 does not hold.
    """
    stored = stored_by(GptqLayout(True), source)
    for name, shape in tensor_shapes(source.config).items():
        scheme = stored.schemes[name]
        if scheme is None:
            continue
        if any(size * scheme.bits % WORD_BITS for size in shape):
            raise InputError(
                f"{source.folder} ({name}): {scheme.bits} bits of a shape {list(shape)} do not fill 32-bit words, of "
                "which GPTQ's layout is made; keep it float"
            )
        if scheme.scales == "float32":
            raise InputError(f"{source.folder} ({name}): scales that float16 does not hold, which GPTQ stores")
    symmetric = all(scheme is None or scheme.symmetric for scheme in stored.schemes.values())
    return write_packed_folder(GptqLayout(symmetric), source, stored, folder)


def _settings(scheme: Scheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": scheme.group_size, "sym": scheme.symmetric}
