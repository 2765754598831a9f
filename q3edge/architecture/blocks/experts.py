"""A mixture of experts: a router and many small MLPs (Qwen3MoeSparseMoeBlock of transformers)."""

from __future__ import annotations

from functools import lru_cache

from q3edge.architecture.blocks.description import Block, InputGroup, Tensor
from q3edge.architecture.blocks.mlp import NORM, gated_groups, gated_tensors
from q3edge.architecture.config import Qwen3Config

KIND = "experts"
ROUTER = "gate"


def describe(config: Qwen3Config, layer: int) -> Block | None:
    """Describe the block of a layer with experts; None for others.

    Its norm feeds all experts and the router, so no input group alone can scale its channels.
    """
    return _block(config) if config.is_moe_layer(layer) else None


@lru_cache(maxsize=8)  # all layers with experts are alike, and have thousands of matrices
def _block(config: Qwen3Config) -> Block:
    assert config.moe is not None
    width, hidden = config.moe.moe_intermediate_size, config.hidden_size
    tensors = [
        Tensor(NORM, f"{NORM}.weight", (hidden,)),
        Tensor(ROUTER, f"mlp.{ROUTER}.weight", (config.moe.num_experts, hidden)),
    ]
    groups: list[InputGroup] = []
    for number in range(config.moe.num_experts):
        tensors += gated_tensors(config, width, expert=number)
        groups += gated_groups(width, fold=None, expert=number)
    return Block(KIND, tuple(tensors), NORM, tuple(groups), router=ROUTER)
