"""`RoutedStates`: hidden states before a block of experts, each token's experts, and the sum that their products make.

Experts are computed one at a time, each for its own tokens, wherever in the text these are. States and sums are in
streams, so memory does not grow with the text, and products are added in the order of the experts' numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from q3edge.architecture.blocks import Block
from q3edge.architecture.config import Qwen3Config
from q3edge.calibration.layers.streams import StateStream, Tokens
from q3edge.reference.blocks.experts import Routing, expert_product
from q3edge.reference.layer import first_input
from q3edge.reference.parallel import ordered_map
from q3edge.reference.weights import LayerWeights


@dataclass(frozen=True, slots=True, eq=False)
class ExpertInputs:
    """Inputs of one expert: its tokens int64 [n], in order, their shares float32 [n], and normed states [n, H]."""

    tokens: torch.Tensor
    shares: torch.Tensor
    normed: torch.Tensor


class RoutedStates:
    """States of all tokens before a block of experts, routed by the router in `weights`.

    states: the stream that they are in; sums: one that they and the experts' products are added up in.
    """

    def __init__(
        self,
        block: Block,
        weights: LayerWeights,
        config: Qwen3Config,
        tokens: Tokens,
        states: StateStream,
        sums: StateStream,
    ) -> None:
        assert block.router is not None
        assert config.moe is not None
        self.block = block
        self._weights, self._config, self._tokens = weights, config, tokens
        self._states, self._sums = states, sums
        self._router, self._moe = weights[block.router], config.moe
        self.routing = self._route()

    def inputs(self, expert: int) -> ExpertInputs:
        """Read the inputs of an expert."""
        tokens, shares = self.routing.tokens_of(expert)
        return ExpertInputs(tokens, shares, self.normed(tokens))

    def normed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the normed states float32 [n, H] of some tokens, int64 [n]."""
        return first_input(self._states.gather(tokens), self.block, self._weights, self._config)

    def add(self, expert: int, product: torch.Tensor) -> None:
        """Add an expert's product [n, H], weighted by the tokens' shares."""
        tokens, shares = self.routing.tokens_of(expert)
        self._sums.add(tokens, product.float() * shares.unsqueeze(-1))

    def write(self, after: StateStream) -> None:
        """Write the sums, the hidden states after the block, to a stream."""
        for part in self._tokens.parts:
            after.write(part, self._sums.read(part))

    def _route(self) -> Routing:
        def route(part: slice) -> Routing:
            states = self._states.read(part)
            self._sums.write(part, states)
            normed = first_input(states, self.block, self._weights, self._config)
            return Routing.of(normed.flatten(0, 1), self._router, self._moe)

        found = [routing for _, routing in self._tokens.map(route)]
        return Routing(torch.cat([r.experts for r in found]), torch.cat([r.shares for r in found]))


def _add_experts(routed: RoutedStates, weights: LayerWeights, tokens: Tokens) -> None:
    """Compute every expert by `weights` and add its product, several experts at a time."""

    def product(expert: int) -> torch.Tensor:
        inputs = routed.inputs(expert)
        with tokens.forward():
            return expert_product(inputs.normed, routed.block.experts[expert], weights)

    for expert, found in enumerate(ordered_map(product, range(len(routed.block.experts)))):
        routed.add(expert, found)


def pass_experts(
    block: Block,
    before: StateStream,
    after: StateStream,
    sums: StateStream,
    weights: LayerWeights,
    config: Qwen3Config,
    tokens: Tokens,
) -> Routing:
    """Take hidden states through a block of experts, from one stream to another, with `sums` for what is between."""
    routed = RoutedStates(block, weights, config, tokens, before, sums)
    _add_experts(routed, weights, tokens)
    routed.write(after)
    return routed.routing
