"""The kinds of blocks that a decoder layer is made of, one file each.

A new kind is described here, computed in `q3edge.reference.blocks` and exported in `q3edge.exporters.onnx.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable

from q3edge.architecture.blocks import attention, experts, mlp
from q3edge.architecture.blocks.description import (
    Block,
    Fold,
    InputGroup,
    KeyValueState,
    NormFold,
    RowFold,
    Tensor,
)
from q3edge.architecture.config import Qwen3Config

__all__ = ["KINDS", "Block", "Fold", "InputGroup", "KeyValueState", "NormFold", "RowFold", "Tensor"]

# In the order of the forward pass; each describes its block of a layer, or returns None if the layer has none.
KINDS: list[Callable[[Qwen3Config, int], Block | None]] = [attention.describe, mlp.describe, experts.describe]
