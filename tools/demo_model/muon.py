"""Muon for matrices and for stacks of matrices, such as the experts of a layer, each matrix by itself but all at once.

torch.optim.Muon takes single matrices only; for hundreds of small ones its calls cost more than their arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

_QUINTIC = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Move the singular values of each matrix [..., rows, columns] near 1, by Newton-Schulz iterations in bfloat16."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: torch.Tensor = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, at the step size of AdamW (0.2 x the root of the longer side)."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._update(weight, weight.grad, group["lr"], group["weight_decay"])

    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, rate: float, decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        update = orthogonalised(gradient.lerp(momentum, _MOMENTUM)).to(weight.dtype)
        weight.mul_(1 - rate * decay)
        weight.add_(update, alpha=-rate * 0.2 * math.sqrt(max(weight.shape[-2:])))
