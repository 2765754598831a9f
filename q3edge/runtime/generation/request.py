"""`Request`: the state of one request, from its prompt to its last token, advanced by the logits of forward passes.

Handles stopping and timing, and accepts a draft token only if the model chooses the same one. It knows neither cache
nor decoder: the caller asks each request for the tokens of its next pass, and decides which requests share one.
Sampling is in `sampling`, drafting in `speculation`, the limit of thinking in `thinking_budget`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.runtime.generation.constraint import Constraint
from q3edge.runtime.generation.logprobs import TokenLogprobs, token_logprobs
from q3edge.runtime.generation.penalties import Penalties
from q3edge.runtime.generation.repeats import Repeats
from q3edge.runtime.generation.sampling import Sampler
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft, Speculation
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.generation.thinking_budget import ThinkingBudget
from q3edge.runtime.text.thinking import ThinkingTokens

# Last tokens of a prompt that are computed even if they are cached. One would give logits; kernels for a single row add
# in another order than those for several, so with two the logits are those of a new prompt.
_COMPUTED_AGAIN = 2


class ContextError(UsageError):
    """The prompt leaves no room in the context."""


class Request:
    """A prompt and the tokens generated after it.

    Call `start` once, then in turn `next_ids`, a pass over them, and `advance` with its logits, until `finished`. The
    caller keeps the first `computed` of `ids` in a cache and forgets the tokens after them.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        settings: GenerationSettings,
        context: int,
        *,
        draft: Draft | None = None,
        thinking: ThinkingTokens | None = None,
        statistics: Statistics | None = None,
        watch: Callable[[int], bool] | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """Prepare for at most `max_new_tokens`, and no more than fit `context` tokens. Fills `statistics`, if given.

        `watch` is given each new token, and returns whether the answer ends with it, as where a stop string is in its
        text. `thinking`: the model's tokens for it, None if it has none. `constraint`: the answer's format; where it
        lets nothing follow, the answer ends. UsageError: the prompt is empty, or leaves no
        room in the context or in the settings' max_length; there is a thinking budget, and the model has no thinking.
        """
        longest = min(context, settings.max_length or context)
        _check_prompt(prompt_ids, context, longest)
        self._budget = _thinking_budget(settings.thinking_budget, thinking, prompt_ids)
        self._forced = self._budget.first if self._budget else ()  # tokens that come next, whatever the model chooses
        self.ids = list(prompt_ids)  # the prompt, and every new token but the stop token
        self.computed = 0  # leading ids that went through the model
        self.finished = False
        self.statistics = statistics if statistics is not None else Statistics()
        self.statistics.prompt_tokens = len(prompt_ids)
        # One for each of `new_ids`, None for those that were forced; empty where the settings do not ask for them.
        self.logprobs: list[TokenLogprobs | None] = []
        self._top = settings.logprobs
        self.repeats = Repeats()
        self._most_repeats = settings.max_repeats
        self._limit = min(settings.max_new_tokens, longest - len(prompt_ids))
        self._watch, self._constraint = watch, constraint
        self._stops = settings.stop_token_ids or frozenset()
        self._penalties = Penalties(settings, prompt_ids)
        self._sampler = Sampler(settings.temperature, settings.top_k, settings.top_p, settings.seed, settings.min_p)
        self._speculation = Speculation(draft, measured=not settings.repeatable) if draft is not None else None
        self._input: list[int] = []  # the next pass: ids not yet computed, then draft tokens
        self._draft_tokens: list[int] = []
        self._found: list[TokenLogprobs] = []  # of the tokens chosen from the last pass
        self._speculates = False  # whether the next pass may have draft tokens, so that its cost says something of them
        self._asked = self._began = 0.0  # when the next pass was asked for, and when its tokens were known

    @property
    def new_ids(self) -> list[int]:
        """Token ids generated so far, without a stop token."""
        return self.ids[self.statistics.prompt_tokens :]

    @property
    def reusable(self) -> int:
        """Number of leading prompt tokens that need not be computed if they are cached: all but the last two."""
        return max(len(self.ids) - _COMPUTED_AGAIN, 0)

    @property
    def keep(self) -> int:
        """Number of the next pass's last positions whose logits are needed."""
        return 1 + len(self._draft_tokens)

    @property
    def longest(self) -> int:
        """Number of tokens that prompt and answer may come to."""
        return self.statistics.prompt_tokens + self._limit

    @property
    def prefilling(self) -> bool:
        """Whether the next pass is over tokens of the prompt."""
        return self.computed < self.statistics.prompt_tokens

    def start(self, cached: int) -> None:
        """Begin with the first `cached` tokens of the prompt, at most `reusable`, in the cache."""
        self.computed = self.statistics.reused_tokens = cached

    def next_ids(self, at_most: int, *, alone: bool = True) -> list[int]:
        """Token ids of the next pass: up to `at_most` of the prompt, or the newest token and draft tokens after it.

        Without draft tokens where the pass is not its `alone`. Tokens that were forced come as those of a prompt do.
        """
        self._asked = time.perf_counter()
        rest = self.ids[self.computed : self.computed + at_most]
        self._speculates = alone and not self.prefilling and self.computed == len(self.ids) - 1
        self._draft_tokens = self._propose() if self._speculates else []
        self._input = [*rest, *self._draft_tokens]
        self._began = time.perf_counter()
        return self._input

    def advance(self, logits: NDArray[np.float32]) -> list[int]:
        """Take the logits float32 [keep, V] of the pass; returns the new tokens, none before the prompt is computed.

        Sets `finished`.
        """
        prefilling = self.prefilling
        whole = self.computed + len(self._input) >= len(self.ids)
        chosen = self._choose(logits) if whole and not self._forced else []
        accepted = max(len(chosen) - 1, 0)
        self._record(prefilling, accepted)
        self.computed += len(self._input) - len(self._draft_tokens) + accepted
        return self._append(chosen) if whole else []

    def _propose(self) -> list[int]:
        left = self._limit - self.statistics.new_tokens
        room = self._budget.room if self._budget else None  # draft tokens beyond it would be in vain
        most = left if room is None else min(left, room)
        return self._speculation.propose(self.ids, most - 1) if self._speculation else []

    def _choose(self, logits: NDArray[np.float32]) -> list[int]:
        """The accepted draft tokens, and the token that the model chooses after them.

        Each is drawn as it would be without a draft, from the same logits with the same random number; the first that
        differs from the draft token is the last, as is a stop token, or one behind which others are forced.
        """
        chosen: list[int] = []
        for row, draft_token in zip(logits, [*self._draft_tokens, None]):
            scores = self._penalties(row)
            chosen.append(self._sampler(scores if self._constraint is None else self._constraint(scores)))
            self._take(chosen[-1])
            if self._top is not None:
                self._found.append(token_logprobs(row, chosen[-1], self._top))
            if self._budget is not None:
                self._forced = self._budget.push(chosen[-1])
            if chosen[-1] != draft_token or draft_token in self._stops or self._forced or self._complete:
                break
        return chosen

    def _take(self, token: int) -> None:
        self._penalties.append(token)
        if self._constraint is not None:
            self._constraint.push(token)

    @property
    def _complete(self) -> bool:
        return self._constraint is not None and self._constraint.complete

    def _record(self, prefilling: bool, accepted: int) -> None:
        end, found = time.perf_counter(), self.statistics
        if prefilling:
            found.prefill_seconds += end - self._asked
            return
        if self._speculation and self._speculates:
            self._speculation.observe(len(self._draft_tokens), accepted, end - self._began)
        found.decode_steps += 1
        found.decode_tokens += len(self._input) - len(self._draft_tokens) + accepted
        found.decode_seconds += end - self._asked
        found.drafted_tokens += len(self._draft_tokens)
        found.accepted_tokens += accepted

    def _append(self, chosen: list[int]) -> list[int]:
        """Add the tokens chosen and those forced behind them, up to a stop token or the limit; returns those added."""
        for token in self._forced:
            self._take(token)
        new = [*chosen, *self._forced][: self._limit - self.statistics.new_tokens]
        self._forced = ()
        stop = next((place for place, token in enumerate(new) if token in self._stops), None)
        stopped, new = stop is not None or self._complete, new[:stop]
        found: list[TokenLogprobs | None] = [*self._found, *[None] * len(new)]
        self._found.clear()
        looped = False
        for count, token in enumerate(new, 1):
            if self._top is not None:
                self.logprobs.append(found[count - 1])
            times = self.repeats.push(token)
            looped = self._most_repeats > 0 and times >= self._most_repeats
            ended = self._watch is not None and self._watch(token)
            if ended or looped:
                stopped, new = ended, new[:count]
                break
        self.ids += new
        self.computed = min(self.computed, len(self.ids))
        self.statistics.new_tokens += len(new)
        self.statistics.forced_tokens += max(len(new) - len(chosen), 0)
        if stopped:
            self.statistics.finish_reason = "stop"
        self.finished = stopped or looped or self.statistics.new_tokens == self._limit
        return new


def _thinking_budget(
    budget: int | None, thinking: ThinkingTokens | None, prompt_ids: Sequence[int]
) -> ThinkingBudget | None:
    if budget is None:
        return None
    if thinking is None:
        raise UsageError(
            f"thinking_budget = {budget}: the model's tokenizer has no <think> and </think>, so there is no thinking; "
            "leave the budget out"
        )
    return ThinkingBudget(budget, thinking, prompt_ids)


def _check_prompt(prompt_ids: Sequence[int], context: int, longest: int) -> None:
    if not prompt_ids:
        raise UsageError("the prompt is empty; give at least one character")
    if len(prompt_ids) >= context:
        raise ContextError(
            f"the prompt has {len(prompt_ids)} tokens, but the model's context is {context} tokens; shorten the prompt"
        )
    if len(prompt_ids) >= longest:
        raise UsageError(
            f"max_length = {longest} is for prompt and answer together, and the prompt alone takes {len(prompt_ids)}; "
            "give max_new_tokens instead"
        )
