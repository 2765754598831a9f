"""A mixture of experts; equals transformers' Qwen3MoeSparseMoeBlock.

Expert by expert, so that the matrices of one are in memory at a time, in the order of their numbers: a token's products
are always added in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import linear

from q3edge.architecture.blocks import Block, InputGroup
from q3edge.architecture.config import MoeConfig, Qwen3Config
from q3edge.reference.blocks.mlp import gated
from q3edge.reference.weights import LayerWeights

Watch = Callable[[str, torch.Tensor], None]  # name of an input group, its input


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """Experts of T tokens, k each: `experts` int64 [T, k], and the `shares` float32 [T, k] that weight their products.

    Softmax over all experts, then the k largest, as in the Qwen3 technical report (arXiv 2505.09388).
    """

    experts: torch.Tensor
    shares: torch.Tensor

    @classmethod
    def of(cls, normed: torch.Tensor, router: torch.Tensor, moe: MoeConfig) -> Self:
        """Route normed states [T, H] by a router [E, H], in float32 whatever autocast says: a rank is a decision."""
        with torch.autocast("cpu", enabled=False):
            scores = torch.softmax(linear(normed.float(), router), dim=-1)
        shares, experts = torch.topk(scores, moe.num_experts_per_tok, dim=-1)
        if moe.norm_topk_prob:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return cls(experts, shares)

    def tokens_of(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the tokens that are routed to an expert, int64 [n] in ascending order, and their shares float32 [n]."""
        tokens, places = torch.where(self.experts == expert)
        return tokens, self.shares[tokens, places]

    def counts(self, experts: int) -> torch.Tensor:
        """Count the tokens of each of so many experts, int64 [experts]."""
        return tokens_by_expert(self.experts, experts)


def tokens_by_expert(chosen: torch.Tensor, experts: int) -> torch.Tensor:
    """Count how often each of so many experts is chosen, int64 [experts], in choices [T, k]."""
    return torch.bincount(chosen.flatten(), minlength=experts)


def agreement(chosen: torch.Tensor, wanted: torch.Tensor) -> float:
    """Share of the experts in `chosen` [T, k] that are among those `wanted` [T, m] of the same token."""
    return float((chosen.unsqueeze(-1) == wanted.unsqueeze(-2)).any(dim=-1).double().mean())


def mixture(
    normed: torch.Tensor, block: Block, weights: LayerWeights, config: Qwen3Config, watch: Watch | None = None
) -> torch.Tensor:
    """Compute what a block of experts adds to the hidden states, float32 [T, H], from the normed input [T, H].

    watch: called with every input group's input [n, K], of the n tokens that are routed to its expert, if there are
    any.
    """
    assert block.router is not None
    assert config.moe is not None
    routing = Routing.of(normed, weights[block.router], config.moe)
    added = torch.zeros_like(normed, dtype=torch.float32)
    for number, groups in enumerate(block.experts):
        tokens, shares = routing.tokens_of(number)
        if len(tokens):
            product = expert_product(normed[tokens], groups, weights, watch)
            added.index_add_(0, tokens, product.float().mul_(shares.unsqueeze(-1)))
    return added


def expert_product(
    values: torch.Tensor, groups: tuple[InputGroup, ...], weights: LayerWeights, watch: Watch | None = None
) -> torch.Tensor:
    """Compute the product [n, H] of one expert, whose input groups are given, for its normed input [n, H]."""
    first, last = groups
    gate, up = first.matrices
    (down,) = last.matrices
    if watch is not None:
        watch(first.name, values)
    values = gated(values, weights[gate], weights[up])
    if watch is not None:
        watch(last.name, values)
    return linear(values, weights[down])
