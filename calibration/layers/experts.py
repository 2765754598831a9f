"""`ExpertsSolver`: a block of experts, each solved for the tokens that the router sends to it.

An expert's Hessian weights a token by the square of its share, as its error counts in the layer's output. Where an
expert sees few tokens, its Hessian is shrunk towards that of all tokens: they stand for as many as are missing to
ENOUGH for each channel. All experts and the router have one input, so one channel scale is chosen for all of them. The
router stays float. Experts do not depend on each other: several are solved at a time, each by one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import linear

from q3edge.architecture.blocks import Block, InputGroup
from q3edge.calibration.layers.input_group import (
    SAMPLED_ROWS,
    Solution,
    choose_channel_scale,
    rounds_inputs,
    solve_input_group,
    solve_scaled_group,
    spaced_rows,
)
from q3edge.calibration.layers.rounded import RoundedLayer
from q3edge.calibration.layers.routed import ExpertInputs, RoutedStates
from q3edge.calibration.layers.streams import Tokens
from q3edge.calibration.rounding.channel_scaling import nearest_foldable
from q3edge.calibration.rounding.moments import Moments
from q3edge.cluster.place import spread
from q3edge.quantization.scheme import Scheme
from q3edge.reference.blocks.mlp import gated
from q3edge.reference.parallel import ordered_map

ENOUGH = 8  # tokens for each channel of an input
SAMPLED_TOKENS = 4096  # of all, which every expert computes beside its own


@dataclass(frozen=True, slots=True, eq=False)
class _Prior:
    """Moments of what any token gives, and how many of these tokens are not held out."""

    moments: Moments
    solved_for: int


@dataclass(frozen=True, slots=True, eq=False)
class _Solved:
    """A solved expert: its input groups' solutions, and its inputs' product [n, H] by rounded matrices."""

    gate_up: Solution
    down: Solution
    product: torch.Tensor


class ExpertsSolver:
    """Solver of a block of experts; results are kept in `rounded`, their layer."""

    def __init__(self, rounded: RoundedLayer, block: Block, tokens: Tokens) -> None:
        self._rounded, self._block, self._tokens = rounded, block, tokens
        self._exponent = 0.0

    def scale(self, moments: Moments) -> torch.Tensor:
        """Choose the channel scale [H] of the block's input by the `moments` of all tokens, and fold it; returns it."""
        groups = [first for first, _ in self._block.experts]
        schemes = {field: scheme for group in groups for field, scheme in self._rounded.schemes_of(group).items()}
        if not schemes:
            return torch.ones(len(moments.hessian))
        fields = [*schemes][:: -(-len(schemes) // SAMPLED_ROWS)]
        rows = SAMPLED_ROWS // len(fields)
        sample = {field: spaced_rows(self._rounded.weights[field], rows) for field in fields}
        self._exponent, channel_scale = choose_channel_scale(sample, schemes, moments)
        self._rounded.scale_experts(self._block, channel_scale)
        return channel_scale

    def solve(self, routed: RoutedStates, moments: Moments, advance: Callable[[int], object]) -> None:
        """Solve all experts for the `routed` states, and add their products to these.

        moments: of the block's scaled input, of all tokens. advance: called with each expert's number when it is done.
        """
        count = self._tokens.count
        tokens = torch.linspace(0, count - 1, min(SAMPLED_TOKENS, count), dtype=torch.float64).round().long()
        sample = ExpertInputs(tokens, torch.ones(len(tokens)), routed.normed(tokens))
        whole = _Prior(moments, self._tokens.solved_for)

        def solve(expert: tuple[tuple[InputGroup, ...], ExpertInputs]) -> _Solved:
            return self._solve(*expert, whole, sample)

        experts = self._block.experts
        for number, solved in enumerate(spread(solve, zip(experts, ordered_map(routed.inputs, range(len(experts)))))):
            for group, solution in zip(experts[number], (solved.gate_up, solved.down)):
                self._rounded.keep(group, solution)
            routed.add(number, solved.product)
            advance(number)

    def _solve(
        self, groups: tuple[InputGroup, ...], inputs: ExpertInputs, whole: _Prior, sample: ExpertInputs
    ) -> _Solved:
        """Solve one expert. whole: moments of the block's input; sample: some of all tokens, with shares of 1."""
        first, last = groups
        weights = {field: self._rounded.scaled(field) for group in groups for field in group.matrices}
        gate_up = _unsolved(inputs.normed)
        if schemes := self._rounded.schemes_of(first):
            moments = self._shrunk(inputs, inputs.normed, schemes, whole)
            gate_up = solve_scaled_group(_only(schemes, weights), schemes, moments, self._exponent)
        gate, up = (gate_up.values(field, weights) for field in first.matrices)
        (matrix,) = last.matrices
        with self._tokens.forward():
            values, others = (gated(found.normed, gate, up).float() for found in (inputs, sample))
        down = _unsolved(values)
        if schemes := self._rounded.schemes_of(last):
            moments = self._shrunk(inputs, values, schemes, self._prior(sample, others, schemes))
            allowed = partial(nearest_foldable, fold=last.fold)
            down = solve_input_group(_only(schemes, weights), schemes, moments, allowed)
        with self._tokens.forward():
            product = linear(values / down.channel_scale, down.values(matrix, weights)).float()
        return _Solved(gate_up, down, product)

    def _shrunk(
        self, inputs: ExpertInputs, values: torch.Tensor, schemes: Mapping[str, Scheme], prior: _Prior
    ) -> Moments:
        """Moments of an expert's `values` [n, K], weighted by their shares, shrunk towards those of any token.

        An expert that no token is routed to has the latter alone.
        """
        moments = self._moments(inputs, values, schemes)
        shares = inputs.shares[inputs.tokens < self._tokens.solved_for]
        weight = float(shares.square().mean()) if len(shares) else 1.0
        missing = max(0, ENOUGH * values.shape[1] - len(shares))
        moments.add_share(prior.moments, weight * missing / prior.solved_for)
        return moments

    def _prior(self, sample: ExpertInputs, values: torch.Tensor, schemes: Mapping[str, Scheme]) -> _Prior:
        solved_for = int((sample.tokens < self._tokens.solved_for).sum())
        return _Prior(self._moments(sample, values, schemes), solved_for)

    def _moments(self, inputs: ExpertInputs, values: torch.Tensor, schemes: Mapping[str, Scheme]) -> Moments:
        moments = Moments.empty(values.shape[1], keeps_samples=rounds_inputs(schemes))
        weighted, held_out = values * inputs.shares.unsqueeze(-1), inputs.tokens >= self._tokens.solved_for
        moments.add(weighted[~held_out], held_out=False)
        if held_out.any():
            moments.add(weighted[held_out], held_out=True)
        return moments


def _only(schemes: Mapping[str, Scheme], weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {field: weights[field] for field in schemes}


def _unsolved(values: torch.Tensor) -> Solution:
    """Solution of a group that stays float, for inputs [n, K]."""
    return Solution({}, torch.ones(values.shape[1]), {})
