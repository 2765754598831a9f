"""Description of a block of a decoder layer: tensors, which of them share an input, state kept between tokens.

Its computation is in `q3edge.reference.blocks` and `q3edge.exporters.onnx.blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a layer. field: its name within the layer, such as q_proj; path: name below the layer's prefix."""

    field: str
    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NormFold:
    """Fold into a norm that gives the input channels: dividing its weight undoes any channel scaling."""

    norm: str


@dataclass(frozen=True, slots=True)
class RowFold:
    """Fold into a matrix whose rows give the input channels: dividing these undoes a scaling by powers of two, exactly.

    With the channels as [heads, sharing, width], all `sharing` channels at one (head, place) come from row (head,
    place) of the matrix, which has heads * width rows, and so share one channel scale.
    """

    matrix: str
    heads: int
    sharing: int
    width: int


Fold = NormFold | RowFold


@dataclass(frozen=True, slots=True)
class InputGroup:
    """Matrices that multiply the same input.

    fold: where a channel scaling of this group alone is undone; None: nowhere.
    expert: number of the expert whose matrices they are; None: of none.
    """

    name: str
    matrices: tuple[str, ...]
    fold: Fold | None
    expert: int | None = None

    @property
    def role(self) -> str:
        """Name without the expert's number: groups of one role in a layer differ in nothing else."""
        return self.name if self.expert is None else self.name.replace(f".{self.expert}.", ".", 1)


@dataclass(frozen=True, slots=True)
class KeyValueState:
    """Keys and values that grow by one entry per token: [batch_size, kv_heads, length, head_dim] each."""

    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Block:
    """One residual block: its last input group's product is added to the hidden states.

    kind: key of its computation and export. norm: field of the norm before it. tensors, groups: in the order of the
    forward pass; the input of the first group is the norm's output, and the last group has one matrix, whose product is
    added to the hidden states. state: what a runtime keeps between tokens (None: nothing). router: field of the matrix
    that chooses each token's experts; None: there are none. With a router, the groups of each expert are such a
    sequence, for the tokens that are routed to it, and the sum of the products is added, weighted by the router.
    """

    kind: str
    tensors: tuple[Tensor, ...]
    norm: str
    groups: tuple[InputGroup, ...]
    state: KeyValueState | None = None
    router: str | None = None

    @property
    def experts(self) -> tuple[tuple[InputGroup, ...], ...]:
        """Groups of each expert in turn; none without a router."""
        by_expert: dict[int, list[InputGroup]] = {}
        for group in self.groups:
            if group.expert is not None:
                by_expert.setdefault(group.expert, []).append(group)
        return tuple(map(tuple, by_expert.values()))
