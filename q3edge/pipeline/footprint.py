"""Bytes that onnxruntime's kernels keep and read for the weights of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, tensor_shapes
from q3edge.quantization.scheme import Scheme

_GROUP_BYTES = 8  # kernels keep a float32 scale and a float32 sum per group beside the codes


def resident_bytes(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """Bytes of one tensor in memory after prepacking."""
    if scheme is None:
        return 4 * math.prod(shape)
    return math.prod(shape) * scheme.bits // 8 + _GROUP_BYTES * shape[0] * scheme.groups(shape[1])


def weight_bytes_per_token(config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> int:
    """Bytes that one decoding step reads: every matrix once; an embedding that is not the head too counts as 0."""
    shapes = tensor_shapes(config)
    read = (name for name in shapes if name != EMBEDDING or config.tie_word_embeddings)
    return sum(resident_bytes(shapes[name], schemes[name]) for name in read)
