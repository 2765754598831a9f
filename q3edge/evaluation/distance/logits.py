"""Logits of two models for the same tokens -> `TokenMetrics`. Pure functions; `statistics` averages."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.evaluation.distance.metrics import METRICS, TokenMetrics

_CELLS = 320_000  # logits of one model at once: two rows of Qwen3's vocabulary
_TINY = float(np.finfo(np.float32).tiny)  # logits that are all zero still have an error


def compare_logits(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]
) -> TokenMetrics:
    """Metrics of T positions from logits float32 [T, V] of both models and the next tokens int64 [T].

    Computed in float64, a few rows at a time so that the working set stays in the CPU's cache. By torch, whose
    exponential is three times as fast as numpy's.
    """
    if not len(reference) == len(candidate) == len(targets):
        raise ValueError(f"{len(reference)} and {len(candidate)} rows of logits for {len(targets)} tokens")
    rows = [np.empty((0, len(METRICS)))]
    count = max(1, _CELLS // max(1, reference.shape[-1]))
    for start in range(0, len(targets), count):
        block = slice(start, start + count)
        tensors = (torch.from_numpy(array[block]) for array in (reference, candidate, targets))
        rows.append(_compare_rows(*tensors).numpy())
    return TokenMetrics(*np.concatenate(rows).T)


def _compare_rows(reference: torch.Tensor, candidate: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The fields of TokenMetrics for R positions, float64 [R, fields]."""
    top, other_top = (torch.from_numpy(x.numpy().argmax(1)) for x in (reference, candidate))  # 10 times torch's speed
    a, b = reference.double(), candidate.double()
    difference = a - b
    norm = torch.linalg.vector_norm
    error = norm(difference, dim=1) / norm(a, dim=1).clamp(min=_TINY)
    a -= a.gather(1, top[:, None])
    b -= b.gather(1, other_top[:, None])
    next_a, next_b = (x.gather(1, targets[:, None])[:, 0] for x in (a, b))
    torch.sub(a, b, out=difference)
    sum_a, log_b = a.exp_().sum(1), b.exp_().sum(1).log()
    log_a = sum_a.log()
    # sum p (log p - log q), written so that equal logits give exactly 0; rounding can only miss 0 by about 1e-15.
    kl = (a.mul_(difference).sum(1) / sum_a - log_a + log_b).clamp(min=0.0)
    reference_nll, candidate_nll = log_a - next_a, log_b - next_b
    change = torch.exp(-candidate_nll) - torch.exp(-reference_nll)
    return torch.stack([kl, (top == other_top).double(), reference_nll, candidate_nll, change, error], dim=1)
