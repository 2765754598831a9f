"""Per-token distance between two models' predictions. Pure functions of logits; averaging is `statistics`'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
_TINY = float(np.finfo(np.float32).tiny)  # logits that are all zero still have an error


@dataclass(frozen=True, slots=True, eq=False)
class TokenMetrics:
    """One value per scored position, each float64 [T]; "next" is the token that really follows.

    kl: KL(reference || candidate) of the next-token distributions, in nats.
    same_top: 1 where both find the same token likeliest, else 0.
    reference_nll, candidate_nll: -log probability of the next token, in nats.
    probability_change: candidate's minus the reference's probability of the next token.
    logit_error: Euclidean norm of the difference of the logits over that of the reference's logits.
    """

    kl: Float64Array
    same_top: Float64Array
    reference_nll: Float64Array
    candidate_nll: Float64Array
    probability_change: Float64Array
    logit_error: Float64Array

    @classmethod
    def concatenate(cls, parts: Sequence[TokenMetrics]) -> TokenMetrics:
        """The positions of all parts in order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.kl)


def compare_logits(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]
) -> TokenMetrics:
    """Metrics of T positions from logits float32 [T, V] of both models and the next tokens int64 [T].

    Computed in float64, one row at a time so that the working set stays in the CPU's cache.
    """
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which the caller reports
        rows = [_compare_row(*row) for row in zip(reference, candidate, targets.tolist(), strict=True)]
    return TokenMetrics(*np.array(rows, np.float64).reshape(-1, len(fields(TokenMetrics))).T)


def _compare_row(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], target: int
) -> tuple[float, float, float, float, float, float]:
    """The fields of TokenMetrics for one position."""
    top, other_top = int(reference.argmax()), int(candidate.argmax())
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    error = _norm(a - b) / max(_norm(a), _TINY)
    a -= a[top]
    b -= b[other_top]
    exp_a = np.exp(a)
    sum_a = exp_a.sum()
    log_a, log_b = np.log(sum_a), np.log(np.exp(b).sum())
    # sum p (log p - log q), written so that equal logits give exactly 0; rounding can only miss 0 by about 1e-15.
    kl = np.maximum((exp_a * (a - b)).sum() / sum_a - log_a + log_b, 0.0)
    reference_nll, candidate_nll = log_a - a[target], log_b - b[target]
    change = np.exp(-candidate_nll) - np.exp(-reference_nll)
    return kl, float(top == other_top), reference_nll, candidate_nll, change, error


def _norm(x: Float64Array) -> float:
    return float(np.sqrt(np.einsum("i,i", x, x)))  # not BLAS: its threads cost more than one row is worth
