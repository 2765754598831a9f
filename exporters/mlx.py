"""MLX layout, with a checkpoint's codes as they are: what mlx-lm runs on Apple's processors.

Layout: `q3edge.checkpoint.other_tools.mlx`. The minimum of a group is -scale times its zero point. Both are
float16, which may round the minimum (counted), or float32 where scales are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import Notice
from q3edge.checkpoint import ModelFolder
from q3edge.checkpoint.bit_packing import pack_words, words
from q3edge.exporters.minimums import Minimums
from q3edge.exporters.packed_folder import PackedLayout, StoredPart, stored_by, write_packed_folder
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor

_EXPERT: Final = re.compile(r"mlp\.experts\.(\d+)\.")


class MlxLayout(PackedLayout):
    """MLX's layout of matrices; those of a layer's experts are one."""

    name, group_sizes, has_tables, by_rows = "MLX", (32, 64, 128), True, True

    def __init__(self) -> None:
        self.minimums = Minimums()

    def parts(self, shape: tuple[int, int], scheme: Scheme) -> Mapping[str, StoredPart]:
        """Parts of a matrix [N, K]: weight [N, K*bits/32], scales and biases [N, K/G]."""
        rows, width = shape
        floats = (_dtype(scheme), (rows, scheme.groups(width)))
        return {"weight": ("U32", (rows, words(width, scheme.bits))), "scales": floats, "biases": floats}

    def encode(self, block: QuantizedTensor, where: str) -> Mapping[str, NDArray[Any]]:
        """Encode rows of a matrix."""
        scheme = block.scheme
        dtype = np.float16 if _dtype(scheme) == "F16" else np.float32
        return {
            "weight": pack_words(block.codes, scheme.bits).view(np.uint32),
            "scales": block.scales.astype(dtype),
            "biases": self.minimums.of(block, where, dtype),
        }

    def config(self, schemes: Mapping[str, Scheme | None]) -> Mapping[str, Any]:
        """Settings: those of most matrices, and by name those of the others."""
        found = {self.stored_name(name)[0]: scheme for name, scheme in schemes.items() if scheme is not None}
        usual = Counter(map(_settings_key, found.values())).most_common(1)[0][0]
        others = {
            name.removesuffix(".weight"): _settings(_settings_key(scheme))
            for name, scheme in found.items()
            if _settings_key(scheme) != usual
        }
        return {"quantization": {**_settings(usual), **others}}

    def stored_name(self, name: str) -> tuple[str, int | None]:
        """Stored name of a tensor, and an expert's number."""
        expert = _EXPERT.search(name)
        return (name, None) if expert is None else (_EXPERT.sub("mlp.switch_mlp.", name), int(expert[1]))


def write_mlx(source: ModelFolder, folder: Path) -> tuple[Notice, ...]:
    """Write an MLX checkpoint; returns notices of what differs. InputError: groups that MLX does not have."""
    layout = MlxLayout()
    notices = write_packed_folder(layout, source, stored_by(layout, source), folder)
    return (*notices, *layout.minimums.notices())


def _dtype(scheme: Scheme) -> str:
    """Type of scales, and of minima, which it may round."""
    return "F32" if scheme.scales == "float32" else "F16"


def _settings_key(scheme: Scheme) -> tuple[int, int | None]:
    return scheme.bits, scheme.group_size


def _settings(key: tuple[int, int | None]) -> dict[str, Any]:
    return {"group_size": key[1], "bits": key[0]}
