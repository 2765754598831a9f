"""Second moments of a layer's inputs, which calibration keeps in place of the tokens.

The Hessian of a linear layer's squared error is X^T X for inputs X [T, K]. Sums are formed tile by tile, one thread a
tile, so a result does not depend on the number of threads, and the mirrored half is not computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from q3edge.reference.parallel import ordered_map

_TILE = 384  # channels: small enough that two cores share a 576-wide layer, large enough for a fast product
_SAMPLED = 17  # of so many held-out tokens one is kept, at least one; a prime, so that no position in a row is favoured
_MOST_SAMPLES = 512


@dataclass(slots=True, eq=False)
class Moments:
    """Sums of x x^T over the inputs x of one input group, float32 [K, K], K = input width.

    hessian: of the `tokens` that weights are solved for. held_out: of held-out tokens, `held_out_tokens` of them. Where
    a group rounds its inputs too, some held-out inputs are kept as they are: `sampled`, blocks of float32 [n, K].
    """

    hessian: torch.Tensor
    held_out: torch.Tensor
    keeps_samples: bool = False
    sampled: list[torch.Tensor] = field(default_factory=list)
    held_out_tokens: int = 0
    tokens: int = 0

    @classmethod
    def empty(cls, width: int, *, keeps_samples: bool = False) -> Moments:
        """Moments of no tokens yet, for an input of `width` channels."""
        return cls(torch.zeros(width, width), torch.zeros(width, width), keeps_samples)

    def add(self, inputs: torch.Tensor, *, held_out: bool) -> None:
        """Add tokens, float32 [T, K]."""
        add_products(self.held_out if held_out else self.hessian, inputs)
        if held_out:
            self.held_out_tokens += len(inputs)
            if self.keeps_samples:
                self._keep(inputs[(len(inputs) - 1) % _SAMPLED :: _SAMPLED].clone())
        else:
            self.tokens += len(inputs)

    def merge(self, later: Moments) -> None:
        """Add the sums over tokens that come after these; `later` is used up."""
        if later.tokens:
            self.hessian = self.hessian.add_(later.hessian) if self.tokens else later.hessian
        if later.held_out_tokens:
            self.held_out = self.held_out.add_(later.held_out) if self.held_out_tokens else later.held_out
        self.tokens += later.tokens
        self.held_out_tokens += later.held_out_tokens
        for inputs in later.sampled:
            self._keep(inputs)

    def _keep(self, inputs: torch.Tensor) -> None:
        if sum(map(len, self.sampled)) < _MOST_SAMPLES:
            self.sampled.append(inputs)

    def add_share(self, other: Moments, factor: float) -> None:
        """Add `factor` times the moments of other tokens."""
        self.hessian.add_(other.hessian, alpha=factor)
        self.held_out.add_(other.held_out, alpha=factor)
        self.held_out_tokens += round(factor * other.held_out_tokens)
        self.sampled += other.sampled

    def of_scaled(self, channel_scale: torch.Tensor) -> Moments:
        """Moments of the same inputs divided by a channel scale [K]."""
        square = channel_scale.outer(channel_scale)
        sampled = [values / channel_scale for values in self.sampled]
        return Moments(self.hessian / square, self.held_out / square, self.keeps_samples, sampled, self.held_out_tokens)


def add_products(total: torch.Tensor, inputs: torch.Tensor, sign: int = 1) -> None:
    """Add sign * inputs^T @ inputs to `total` [K, K] in place, for inputs [T, K]; both halves."""
    edges = [slice(start, min(start + _TILE, len(total))) for start in range(0, len(total), _TILE)]
    tiles = [(i, j) for number, i in enumerate(edges) for j in edges[number:]]

    def add(tile: tuple[slice, slice]) -> None:
        i, j = tile
        total[i, j].addmm_(inputs[:, i].T, inputs[:, j], alpha=sign)
        if i != j:
            total[j, i] = total[i, j].T

    for _ in ordered_map(add, tiles):
        pass
