"""`TokenMetrics`: distances of two models' predictions at every token. Plain arrays; `logits` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TokenMetrics:
    """Metrics with one value per scored position, each float64 [T]; "next" is the token that really follows.

    kl: KL(reference || candidate) of the next-token distributions, in nats.
    top1_agreement: 1 where both find the same token most likely, else 0.
    reference_nll, candidate_nll: -log probability of the next token, in nats.
    probability_change: candidate's minus the reference's probability of the next token.
    logit_error: Euclidean norm of the difference of the logits over that of the reference's logits.
    """

    kl: Float64Array
    top1_agreement: Float64Array
    reference_nll: Float64Array
    candidate_nll: Float64Array
    probability_change: Float64Array
    logit_error: Float64Array

    @classmethod
    def concatenate(cls, parts: Sequence[TokenMetrics]) -> TokenMetrics:
        """The positions of all parts in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in METRICS))

    def __len__(self) -> int:
        return len(self.kl)


METRICS = tuple(field.name for field in fields(TokenMetrics))
