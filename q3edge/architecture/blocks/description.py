"""What a block of a decoder layer is made of: tensors, which of them share an input, what a runtime keeps for it.

Apart from how it is computed, which is `reference.blocks`' and `exporters.onnx.blocks`'.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a layer. field: its name within the layer, such as q_proj; path: below the layer's prefix."""

    field: str
    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NormFold:
    """Input channels come from a norm: dividing its weight undoes any scaling of them."""

    norm: str


@dataclass(frozen=True, slots=True)
class RowFold:
    """Input channels come from the rows of a matrix: dividing these undoes a scaling by powers of two, exactly.

    Seen as [heads, sharing, width], all `sharing` channels at one (head, place) come from row (head, place) of the
    matrix, which has heads * width rows, and so take one factor.
    """

    matrix: str
    heads: int
    sharing: int
    width: int


Fold = NormFold | RowFold


@dataclass(frozen=True, slots=True)
class InputGroup:
    """Matrices that multiply the same input. fold: what undoes a scaling of its channels; None: nothing can."""

    name: str
    matrices: tuple[str, ...]
    fold: Fold | None


@dataclass(frozen=True, slots=True)
class KeyValueState:
    """Keys and values that grow by one entry a token: [batch_size, kv_heads, length, head_dim] each."""

    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Block:
    """One residual block: hidden states plus what its last input group makes of them.

    kind: what computes it. tensors: in the order of the forward pass. norm: the field of the norm in front. groups: in
    the order of the forward pass; the input of the first is the norm's output, the last has one matrix, whose product
    is added to the hidden states. state: what a runtime keeps between tokens; None: nothing.
    """

    kind: str
    tensors: tuple[Tensor, ...]
    norm: str
    groups: tuple[InputGroup, ...]
    state: KeyValueState | None = None
