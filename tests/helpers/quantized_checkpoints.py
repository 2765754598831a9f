"""QDIR of small random checkpoints, written with plain rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.checkpoint import Checkpoint
from q3edge.checkpoint.compressed_tensors import QuantizedWriter
from q3edge.quantization.scales import storable_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.storage.json_files import read_json_object

Schemes = dict[str, Scheme | None]
UP = "model.layers.0.mlp.up_proj.weight"
W8A8 = Scheme(8, None, activations="int8_per_token")


def quantize(source: Checkpoint, folder: Path, schemes: Schemes, block: int = 32) -> dict[str, QuantizedTensor]:
    """Write QDIR with plain rounding of `source` in blocks of rows; returns what was written."""
    folder.mkdir()
    raw = read_json_object(source.folder / "config.json")
    written = {}
    with QuantizedWriter(folder, raw, schemes, {name: source.dtype(name) for name in source.names()}) as writer:
        for name in source.names():
            scheme = schemes[name]
            if scheme is None:
                writer.add_float(name, source.read(name))
                continue
            tensor = written[name] = naive_quantize(source.read(name), scheme)
            for start in range(0, tensor.shape[0], block):
                writer.add(name, tensor.rows(slice(start, start + block)))
    return written


def naive_quantize(weights: np.ndarray[Any, np.dtype[np.float32]], scheme: Scheme) -> QuantizedTensor:
    """Round to nearest over the full range of each group."""
    rows, width = weights.shape
    blocks = weights.reshape(rows, scheme.groups(width), -1)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    if scheme.symmetric:
        scales = np.maximum(-low, high) / (scheme.implicit_zero_point - 1)
        scales[:, ::2] *= -1  # scales may have either sign
        zero_points = np.full(scales.shape, scheme.implicit_zero_point, np.float32)
    else:
        scales = (high - low) / scheme.max_code
        zero_points = np.clip(np.rint(-low / scales), 0, scheme.max_code)
    scales = storable_scales(scales, scheme)
    codes = np.rint(blocks / scales[:, :, None]) + zero_points[:, :, None]
    codes = np.clip(codes, 0, scheme.max_code).astype(np.uint8).reshape(rows, width)
    zeros = None if scheme.symmetric else zero_points.astype(np.uint8)
    return QuantizedTensor(codes, scales.astype(np.float16), zeros, scheme)


def schemes_for(config: Qwen3Config, linear: Scheme | None, table: Scheme | None) -> Schemes:
    """`linear` for every projection, `table` for the embedding and the head, norms float."""
    matrices = {n: (table if n in (EMBEDDING, LM_HEAD) else linear) for n in tensor_shapes(config)}
    return {name: scheme if len(tensor_shapes(config)[name]) == 2 else None for name, scheme in matrices.items()}
