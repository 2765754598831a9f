"""`Scoring`: a request that reads a text and generates nothing, for the log probabilities of its tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.runtime.generation.logprobs import TokenLogprobs, token_logprobs
from q3edge.runtime.generation.statistics import Statistics

_ROWS = 128  # positions whose logits [_ROWS, V] are in memory at once


class Scoring:
    """Text whose tokens get log probabilities, from the token `first` on. An engine moves it on as a `Request`.

    `logprobs`: those that are known, in the order of the tokens.
    """

    def __init__(self, token_ids: Sequence[int], context: int, *, first: int = 1, top: int = 0) -> None:
        """Prepare to read `token_ids`; `first`, at least 1 and below their number, as a token needs one before it.

        top: how many of the most likely tokens to tell in each place. UsageError: the text exceeds the context by more
        than its last token, which is not read.
        """
        if len(token_ids) > context + 1:
            raise UsageError(
                f"the text has {len(token_ids)} tokens, but the model's context is {context} tokens; shorten the text"
            )
        if not 1 <= first < len(token_ids):
            raise ValueError(f"first = {first}: expected 1 to {len(token_ids) - 1}")
        self.ids = list(token_ids[:-1])  # those that are read
        self.computed = 0
        self.logprobs: list[TokenLogprobs] = []
        self.statistics = Statistics(prompt_tokens=len(self.ids), finish_reason="stop")
        self._targets, self._top = token_ids, top
        self._start = first - 1  # the position whose logits are those of the token `first`
        self._count = 0  # of the tokens in the next pass
        self._asked = 0.0

    @property
    def finished(self) -> bool:
        """Whether all is read."""
        return not self.prefilling

    @property
    def prefilling(self) -> bool:
        """Whether there is more to read."""
        return self.computed < len(self.ids)

    @property
    def reusable(self) -> int:
        """Number of leading tokens that need not be computed if they are cached."""
        return self._start

    @property
    def longest(self) -> int:
        """Number of tokens in the cache at the end."""
        return len(self.ids)

    @property
    def keep(self) -> int:
        """Number of the next pass's last positions whose logits are needed; one where none is."""
        end = self.computed + self._count
        return max(end - max(self.computed, self._start), 1)

    def start(self, cached: int) -> None:
        """Begin with the first `cached` tokens, at most `reusable`, in the cache."""
        self.computed = self.statistics.reused_tokens = cached

    def next_ids(self, at_most: int, *, alone: bool = True) -> list[int]:
        """Token ids of the next pass, at most so many."""
        self._asked = time.perf_counter()
        end = min(self.computed + at_most, max(self.computed, self._start) + _ROWS)
        found = self.ids[self.computed : end]
        self._count = len(found)
        return found

    def advance(self, logits: NDArray[np.float32]) -> list[int]:
        """Take the logits float32 [keep, V] of the pass; returns no tokens."""
        self.computed += self._count
        first = self.computed - len(logits)
        for position, row in enumerate(logits, first):
            if position >= self._start:
                self.logprobs.append(token_logprobs(row, self._targets[position + 1], self._top))
        self.statistics.prefill_seconds += time.perf_counter() - self._asked
        return []
