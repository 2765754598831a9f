"""Bytes that onnxruntime's kernels keep and read for the weights of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, active_share, tensor_shapes
from q3edge.quantization.scheme import Scheme

_SCALE_BYTES = 4
_GROUP_BYTES = 8  # kernels keep a float32 scale and a float32 sum per group beside the codes


def resident_bytes(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """Bytes of one tensor in memory after prepacking."""
    if scheme is None:
        return 4 * math.prod(shape)
    return math.prod(shape) * scheme.bits // 8 + _GROUP_BYTES * shape[0] * scheme.groups(shape[1])


def weight_bytes_per_token(config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> int:
    """Bytes that one decoding step reads: every matrix once, of the experts those that are chosen for a token.

    An embedding that is not the head too counts as 0.
    """
    shapes = tensor_shapes(config)
    read = (name for name in shapes if name != EMBEDDING or config.tie_word_embeddings)
    return round(sum(resident_bytes(shapes[name], schemes[name]) * active_share(name, config) for name in read))


def weights_in_memory(config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> int:
    """Bytes of all weights in memory: packed ones, and the scales of experts, which their operator keeps besides."""
    shapes = tensor_shapes(config)
    kept = {name: resident_bytes(shape, schemes[name]) for name, shape in shapes.items()}
    scales = (
        _SCALE_BYTES * shape[0] * scheme.groups(shape[1])
        for name, shape in shapes.items()
        if active_share(name, config) < 1 and (scheme := schemes[name]) is not None
    )
    tied_head = kept[EMBEDDING] if config.tie_word_embeddings and not config.is_embedding else 0
    return sum(kept.values()) + sum(scales) + tied_head  # the head's kernel keeps its own packing of a tied table
