"""The loop from prompt ids to new ids: chunked prefill, then one pass at a time, with the time each part took.

Owns stopping, timing, and that a guess counts only if it is the token the model chooses. Text is model.py's business,
choosing a token sampling's, when to guess speculation's.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.runtime.generation.prefix_cache import PrefixCache
from q3edge.runtime.generation.sampling import Sampler
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft, Speculation
from q3edge.runtime.session.decoder import Decoder

PREFILL_CHUNK = 256  # tokens at once: fills the matrix kernels; 512 are no faster and take 35 MB more (docs/lab-log.md)
# Of a prompt that is held already, computed again all the same. One would give logits; kernels for a single row add in
# another order than those for several, so with two the logits are those of a prompt that is new.
_COMPUTED_AGAIN = 2


@dataclass(slots=True)
class Statistics:
    """Counts and seconds of one generation; final once its iterator is exhausted.

    reused_tokens are those of the prompt that were held already. A decode step is one forward pass after the prefill;
    the one that yields the stop token counts too. It yields a token, and one more for each guess that was right:
    accepted_tokens of drafted_tokens.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_steps: int = 0
    decode_seconds: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    finish_reason: Literal["stop", "length"] = "length"

    @property
    def time_to_first_token(self) -> float:
        """Seconds until the first token was known; the same as the prefill's."""
        return self.prefill_seconds

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens a second, of those that were computed."""
        computed = self.prompt_tokens - self.reused_tokens
        return computed / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens that decode steps yielded a second; 0 when there was no step."""
        return (self.decode_steps + self.accepted_tokens) / self.decode_seconds if self.decode_seconds else 0.0


def generate(
    decoder: Decoder,
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    statistics: Statistics | None = None,
    *,
    cache: PrefixCache | None = None,
    draft: Draft | None = None,
) -> Iterator[int]:
    """New token ids, one by one; a stop token ends them and is not yielded. Fills `statistics` as it goes.

    At most max_new_tokens, and no more than fit the context (finish_reason "length"). What `cache`, of this decoder,
    holds of the prompt is not computed again. Guesses of `draft` make it faster where they are right. UsageError,
    raised at once: the prompt is empty or leaves no room in the context; later: `cache` went to another generation.
    """
    statistics = statistics if statistics is not None else Statistics()
    check_prompt(decoder, prompt_ids)
    statistics.prompt_tokens = len(prompt_ids)
    return _generate(cache or PrefixCache(decoder), prompt_ids, settings, statistics, draft)


def check_prompt(decoder: Decoder, prompt_ids: Sequence[int]) -> None:
    """UsageError unless at least one new token fits the context after this prompt."""
    context = decoder.config.max_position_embeddings
    if not prompt_ids:
        raise UsageError("the prompt is empty; give at least one character")
    if len(prompt_ids) >= context:
        raise UsageError(
            f"the prompt has {len(prompt_ids)} tokens, but the model's context is {context} tokens; shorten the prompt"
        )


def prefill(cache: PrefixCache, ids: Sequence[int]) -> NDArray[np.float32]:
    """Append `ids`, at least one, in chunks; logits [V] after the last."""
    for start in range(0, len(ids), PREFILL_CHUNK):
        logits: NDArray[np.float32] = cache.extend(ids[start : start + PREFILL_CHUNK])[0]
    return logits


def _generate(
    cache: PrefixCache,
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    statistics: Statistics,
    draft: Draft | None,
) -> Iterator[int]:
    sampler = Sampler(settings.temperature, settings.top_k, settings.top_p, settings.seed)
    speculation = Speculation(draft, measured=not settings.repeatable) if draft is not None else None
    limit = min(settings.max_new_tokens, cache.context - len(prompt_ids))
    text = list(prompt_ids)
    start = time.perf_counter()
    statistics.reused_tokens = cache.resume(text, len(text) - _COMPUTED_AGAIN)
    held = cache.ids  # until another generation begins
    chosen = [sampler(prefill(cache, text[statistics.reused_tokens :]))]
    statistics.prefill_seconds = time.perf_counter() - start
    while True:
        for token in chosen:
            if token in settings.stop_token_ids:
                statistics.finish_reason = "stop"
                return
            statistics.new_tokens += 1
            text.append(token)
            yield token
        if statistics.new_tokens == limit:
            return
        if cache.ids is not held:
            raise UsageError("another generation has begun on this cache; finish one first, or give each its own")
        start = time.perf_counter()
        guesses = speculation.propose(text, limit - statistics.new_tokens - 1) if speculation else []
        pass_start = time.perf_counter()
        chosen = _check(cache, text[-1], guesses, sampler, settings.stop_token_ids)
        end = time.perf_counter()
        if speculation:
            speculation.observe(len(guesses), len(chosen) - 1, end - pass_start)
        statistics.decode_steps += 1
        statistics.decode_seconds += end - start
        statistics.drafted_tokens += len(guesses)
        statistics.accepted_tokens += len(chosen) - 1


def _check(
    cache: PrefixCache, token: int, guesses: Sequence[int], sampler: Sampler, stop_token_ids: Collection[int]
) -> list[int]:
    """One pass over `token` and the guesses behind it: the right guesses, and the token that the model chooses next.

    Each is drawn as it would be without guesses, from the same logits with the same random number; the first that
    differs from the guess ends the pass, as does a stop token. The cache forgets the wrong guesses.
    """
    logits = cache.extend([token, *guesses], keep=1 + len(guesses))
    chosen: list[int] = []
    for row, guess in zip(logits, [*guesses, None]):
        chosen.append(sampler(row))
        if chosen[-1] != guess or guess in stop_token_ids:
            break
    cache.truncate(len(cache.ids) - 1 - len(guesses) + len(chosen))
    return chosen
