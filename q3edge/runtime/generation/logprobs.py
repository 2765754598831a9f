"""Log probabilities of tokens: what the model itself gave them, before temperature, biases, penalties and filters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.runtime.generation.sampling import largest


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log probability of a token, and those of the most likely tokens in its place, most likely first.

    All are of the softmax of the model's logits, whatever the settings made of them. `top`: pairs of token id and log
    probability; the token itself is there only if it is among the most likely. Ties are in the order of their ids.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprobs:
    """Log probability of `token` in logits float32 [V], beside the `top` largest; InputError if a logit is NaN."""
    tokens, values = largest(logits, max(top, 1))
    best = float(values[0])
    # exp in float64 would take six times as long, and add nothing to what the logits are worth.
    total = best + math.log(np.exp(logits - values[0]).sum(dtype=np.float64))
    pairs = zip(tokens[:top].tolist(), values[:top].tolist())
    return TokenLogprobs(token, float(logits[token]) - total, tuple((found, value - total) for found, value in pairs))
