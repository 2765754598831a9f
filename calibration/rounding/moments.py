"""Second moments of a layer's inputs: what calibration keeps of the tokens it saw.

The Hessian of a linear layer's squared error is X^T X for inputs X [T, K]. Sums are formed tile by tile, one thread a
tile, so a result does not depend on the number of threads, and the mirrored half is not computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from q3edge.reference.parallel import ordered_map

_TILE = 384  # channels: small enough that two cores share a 576-wide layer, large enough for a fast product
_SAMPLED = 17  # of so many held-out tokens one is kept, at least one; a prime, so that no place in a row is favoured
_MOST_SAMPLES = 512


@dataclass(slots=True, eq=False)
class Moments:
    """Sums of x x^T over one layer's inputs x, float32 [K, K], K = input width.

    hessian: of the tokens that weights are solved for. held_out: of the tokens that judge the result. Where a stage
    rounds its inputs too, some of these are kept as they are: `sampled` blocks of float32 [n, K].
    """

    hessian: torch.Tensor
    held_out: torch.Tensor
    keeps_samples: bool = False
    sampled: list[torch.Tensor] = field(default_factory=list)
    held_out_tokens: int = 0

    @classmethod
    def empty(cls, width: int, *, keeps_samples: bool = False) -> Moments:
        """No tokens seen yet."""
        return cls(torch.zeros(width, width), torch.zeros(width, width), keeps_samples)

    def add(self, inputs: torch.Tensor, *, held_out: bool) -> None:
        """Count tokens in: float32 [T, K]."""
        add_products(self.held_out if held_out else self.hessian, inputs)
        if held_out:
            self.held_out_tokens += len(inputs)
            if self.keeps_samples and sum(map(len, self.sampled)) < _MOST_SAMPLES:
                self.sampled.append(inputs[(len(inputs) - 1) % _SAMPLED :: _SAMPLED].clone())


def add_products(total: torch.Tensor, inputs: torch.Tensor, sign: int = 1) -> None:
    """total [K, K] += sign * inputs^T @ inputs for [T, K], both halves."""
    edges = [slice(start, min(start + _TILE, len(total))) for start in range(0, len(total), _TILE)]
    tiles = [(i, j) for number, i in enumerate(edges) for j in edges[number:]]

    def add(tile: tuple[slice, slice]) -> None:
        i, j = tile
        total[i, j].addmm_(inputs[:, i].T, inputs[:, j], alpha=sign)
        if i != j:
            total[j, i] = total[i, j].T

    for _ in ordered_map(add, tiles):
        pass
