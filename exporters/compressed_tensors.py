"""compressed-tensors with tables in float16 and groups of at most 128: what vLLM has kernels for.

A quantized checkpoint (QDIR) is in this layout already, which transformers reads as it is; vLLM has no quantized
embedding, and no groups of 16 or 256.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import Notice
from q3edge.checkpoint import ModelFolder
from q3edge.checkpoint.compressed_tensors.layout import PACKED, encode, format_of, stored_parts
from q3edge.checkpoint.compressed_tensors.settings import quantization_config
from q3edge.exporters.packed_folder import PackedLayout, StoredPart, stored_by, write_packed_folder
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor

_ANY_LAYER = "layer.weight"  # all matrices but the embedding are stored alike


class CompressedTensorsLayout(PackedLayout):
    """Layout of compressed-tensors: pack-quantized, or int-quantized where the layer's inputs are rounded too."""

    name, group_sizes, has_tables, by_rows = "compressed-tensors for vLLM", (32, 64, 128), False, False
    rounds_inputs = True

    def parts(self, shape: tuple[int, int], scheme: Scheme) -> Mapping[str, StoredPart]:
        """Parts of a matrix [N, K]."""
        return stored_parts(_ANY_LAYER, shape, scheme)

    def encode(self, block: QuantizedTensor, _where: str) -> Mapping[str, NDArray[Any]]:
        """Encode a whole matrix."""
        shape = {"weight_shape": np.array(block.shape, np.int64)}
        return {**encode(_ANY_LAYER, block), **(shape if format_of(_ANY_LAYER, block.scheme) == PACKED else {})}

    def config(self, schemes: Mapping[str, Scheme | None]) -> Mapping[str, Any]:
        """Settings: groups of matrices that are stored alike."""
        return {"quantization_config": quantization_config(schemes, tied=False)}


def write_compressed_tensors(source: ModelFolder, folder: Path) -> tuple[Notice, ...]:
    """Write a checkpoint in the layout; returns notices of what differs. InputError: groups that vLLM does not have."""
    layout = CompressedTensorsLayout()
    return write_packed_folder(layout, source, stored_by(layout, source), folder)
