"""`Request`: one request's life, from its prompt to its last token, moved on by what forward passes give.

Owns stopping, timing, and that a guess counts only if it is the token the model chooses. It knows neither cache nor
decoder: whoever holds requests asks each for the tokens of its next pass, and decides which share one. Choosing a token
is sampling's business, when to guess speculation's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.runtime.generation.sampling import Sampler
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft, Speculation
from q3edge.runtime.generation.statistics import Statistics

# Of a prompt that is held already, computed again all the same. One would give logits; kernels for a single row add in
# another order than those for several, so with two the logits are those of a prompt that is new.
_COMPUTED_AGAIN = 2


class Request:
    """A prompt and what was generated behind it.

    `start` once, then in turn `next_ids`, a pass over them, and `advance` with its logits, until `finished`. Whoever
    computes keeps the first `computed` of `ids` in a cache and forgets what stands behind them.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        settings: GenerationSettings,
        context: int,
        *,
        draft: Draft | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        """At most `max_new_tokens`, and no more than fit `context` tokens. `statistics` is filled, if given.

        UsageError: the prompt is empty or leaves no room in the context.
        """
        _check_prompt(prompt_ids, context)
        self.ids = list(prompt_ids)  # the prompt, and every new token but the stop token
        self.computed = 0  # leading ids that went through the model
        self.finished = False
        self.statistics = statistics if statistics is not None else Statistics()
        self.statistics.prompt_tokens = len(prompt_ids)
        self._limit = min(settings.max_new_tokens, context - len(prompt_ids))
        self._stops = settings.stop_token_ids
        self._sampler = Sampler(settings.temperature, settings.top_k, settings.top_p, settings.seed)
        self._speculation = Speculation(draft, measured=not settings.repeatable) if draft is not None else None
        self._input: list[int] = []  # the next pass: ids not yet computed, then guesses
        self._guesses: list[int] = []
        self._asked = self._began = 0.0  # when the next pass was asked for, and when its tokens were known

    @property
    def new_ids(self) -> list[int]:
        """What stands behind the prompt."""
        return self.ids[self.statistics.prompt_tokens :]

    @property
    def reusable(self) -> int:
        """How many of the prompt's tokens need not be computed where a cache holds them."""
        return max(len(self.ids) - _COMPUTED_AGAIN, 0)

    @property
    def keep(self) -> int:
        """How many of the next pass's last positions must give logits."""
        return 1 + len(self._guesses)

    def start(self, held: int) -> None:
        """Begin with the first `held` tokens of the prompt, at most `reusable`, in the cache already."""
        self.computed = self.statistics.reused_tokens = held

    def next_ids(self, at_most: int) -> list[int]:
        """The tokens of the next pass: up to `at_most` of the prompt, or the newest token and guesses behind it."""
        self._asked = time.perf_counter()
        rest = self.ids[self.computed :]
        self._guesses = [] if self._prefilling else self._guess()
        self._input = [*rest[:at_most], *self._guesses]
        self._began = time.perf_counter()
        return self._input

    def advance(self, logits: NDArray[np.float32]) -> list[int]:
        """Take in the pass's logits [keep, V]; the new tokens, none while the prompt is not whole. Sets `finished`."""
        prefilling = self._prefilling
        whole = self.computed + len(self._input) >= len(self.ids)
        chosen = self._choose(logits) if whole else []
        right = max(len(chosen) - 1, 0)
        self._record(prefilling, right)
        self.computed += len(self._input) - len(self._guesses) + right
        return self._append(chosen)

    @property
    def _prefilling(self) -> bool:
        return self.computed < self.statistics.prompt_tokens

    def _guess(self) -> list[int]:
        left = self._limit - self.statistics.new_tokens
        return self._speculation.propose(self.ids, left - 1) if self._speculation else []

    def _choose(self, logits: NDArray[np.float32]) -> list[int]:
        """The guesses that are right, and the token that the model chooses next.

        Each is drawn as it would be without guesses, from the same logits with the same random number; the first that
        differs from the guess is the last, as is a stop token.
        """
        chosen: list[int] = []
        for row, guess in zip(logits, [*self._guesses, None]):
            chosen.append(self._sampler(row))
            if chosen[-1] != guess or guess in self._stops:
                break
        return chosen

    def _record(self, prefilling: bool, right: int) -> None:
        end, found = time.perf_counter(), self.statistics
        if prefilling:
            found.prefill_seconds += end - self._asked
            return
        if self._speculation:
            self._speculation.observe(len(self._guesses), right, end - self._began)
        found.decode_steps += 1
        found.decode_seconds += end - self._asked
        found.drafted_tokens += len(self._guesses)
        found.accepted_tokens += right

    def _append(self, chosen: list[int]) -> list[int]:
        stopped = bool(chosen) and chosen[-1] in self._stops
        new = chosen[:-1] if stopped else chosen
        self.ids += new
        self.statistics.new_tokens += len(new)
        if stopped:
            self.statistics.finish_reason = "stop"
        self.finished = stopped or self.statistics.new_tokens == self._limit
        return new


def _check_prompt(prompt_ids: Sequence[int], context: int) -> None:
    if not prompt_ids:
        raise UsageError("the prompt is empty; give at least one character")
    if len(prompt_ids) >= context:
        raise UsageError(
            f"the prompt has {len(prompt_ids)} tokens, but the model's context is {context} tokens; shorten the prompt"
        )
