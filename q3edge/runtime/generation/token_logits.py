"""`TokenLogits`: a request for what a model thinks of a few tokens as the next one, behind a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings


class TokenLogits(Request):
    """Request that is finished with its prompt. found: float32, one logit for each of `tokens`, empty before."""

    def __init__(self, prompt_ids: Sequence[int], context: int, tokens: Sequence[int]) -> None:
        """Prepare for the logits of `tokens` behind a prompt. UsageError: it is empty, or leaves no room."""
        super().__init__(prompt_ids, GenerationSettings(max_new_tokens=1), context)
        self._tokens = list(tokens)
        self.found: NDArray[np.float32] = np.empty(0, np.float32)

    def advance(self, logits: NDArray[np.float32]) -> list[int]:
        """Take the logits float32 [keep, V] of a pass; those of the last chunk of the prompt are kept."""
        new = super().advance(logits)
        if self.finished:
            self.found = logits[-1, self._tokens].copy()
        return new
