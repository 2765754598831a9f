"""`Penalties`: changes of the logits before a token is chosen, for tokens that came before or must not come.

In the order of transformers' processors: biases, repetition penalty (Keskar et al., arXiv 1909.05858), presence and
frequency penalty (OpenAI's API), repeated n-grams, shortest length, suppressed tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.runtime.generation.settings import GenerationSettings

_NEVER = np.float32(-np.inf)


class Penalties:
    """Penalties of one request. It learns of each token by `append`, in their order."""

    def __init__(self, settings: GenerationSettings, prompt_ids: Sequence[int]) -> None:
        """Start after a prompt."""
        self._settings = settings
        self._shortest = max(settings.min_new_tokens, settings.min_length - len(prompt_ids))
        self._active = (
            settings.repetition_penalty != 1 or settings.presence_penalty != 0 or settings.frequency_penalty != 0
            or settings.no_repeat_ngram_size > 0 or self._shortest > 0
            or bool(settings.suppress_tokens) or bool(settings.begin_suppress_tokens) or bool(settings.logit_bias)
        )  # fmt: skip
        self._suppressed = list(settings.suppress_tokens)
        self._first_suppressed = list(settings.begin_suppress_tokens)
        self._biased = [token for token, _ in settings.logit_bias]
        self._biases = np.array([bias for _, bias in settings.logit_bias], np.float32)
        self._stops = list(settings.stop_token_ids or ())
        self._ids: list[int] = []
        self._new = 0
        self._counts: NDArray[np.int32] | None = None  # of each token of the answer
        self._seen: NDArray[np.bool_] | None = None  # tokens of prompt and answer
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)  # what came after n - 1 tokens
        if self._active:
            for token in prompt_ids:
                self._remember(token)

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Change logits float32 [V]; returns a copy, or `logits` where no penalty is on."""
        if not self._active:
            return logits
        settings, scores = self._settings, logits.copy()
        if self._seen is None or self._counts is None:
            self._seen, self._counts = np.zeros(scores.size, np.bool_), np.zeros(scores.size, np.int32)
            self._seen[self._ids] = True
        scores[self._biased] += self._biases
        if settings.repetition_penalty != 1:
            found, penalty = scores[self._seen], np.float32(settings.repetition_penalty)
            scores[self._seen] = np.where(found < 0, found * penalty, found / penalty)
        if settings.presence_penalty or settings.frequency_penalty:
            scores -= np.float32(settings.presence_penalty) * (self._counts > 0)
            scores -= np.float32(settings.frequency_penalty) * self._counts
        if settings.no_repeat_ngram_size:
            scores[list(self._followers.get(self._group(), ()))] = _NEVER
        if self._new < self._shortest:
            scores[self._stops] = _NEVER
        scores[self._suppressed] = _NEVER
        if self._new == 0:
            scores[self._first_suppressed] = _NEVER
        return scores

    def append(self, token: int) -> None:
        """Take the token that was chosen."""
        if not self._active:
            return
        self._remember(token)
        self._new += 1
        if self._seen is not None and self._counts is not None:
            self._seen[token] = True
            self._counts[token] += 1

    def _remember(self, token: int) -> None:
        size = self._settings.no_repeat_ngram_size
        if size and len(self._ids) >= size - 1:
            self._followers[self._group()].add(token)
        self._ids.append(token)

    def _group(self) -> tuple[int, ...]:
        """The last n - 1 tokens."""
        size = self._settings.no_repeat_ngram_size - 1
        return tuple(self._ids[len(self._ids) - size :]) if len(self._ids) >= size else ()
