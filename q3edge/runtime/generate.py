"""The loop from prompt ids to new ids: chunked prefill, then one token at a time, with the time each part took.

Owns stopping and timing. Text is model.py's business, choosing a token sampling's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from q3edge.errors import UsageError
from q3edge.runtime.decoder import Decoder
from q3edge.runtime.sampling import Sampler
from q3edge.runtime.settings import GenerationSettings

PREFILL_CHUNK = 512  # tokens at once: enough to fill the matrix kernels, and bounds the activations' memory


@dataclass(slots=True)
class Statistics:
    """Counts and seconds of one generation; final once its iterator is exhausted.

    A decode step is one forward pass after the prefill; the one that yields the stop token counts too.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_steps: int = 0
    decode_seconds: float = 0.0
    finish_reason: Literal["stop", "length"] = "length"

    @property
    def time_to_first_token(self) -> float:
        """Seconds until the first token was known; the same as the prefill's."""
        return self.prefill_seconds

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens a second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Decode steps a second; 0 when there was none."""
        return self.decode_steps / self.decode_seconds if self.decode_seconds else 0.0


def generate(
    decoder: Decoder, prompt_ids: Sequence[int], settings: GenerationSettings, statistics: Statistics | None = None
) -> Iterator[int]:
    """New token ids, one by one; a stop token ends them and is not yielded. Fills `statistics` as it goes.

    At most max_new_tokens, and no more than fit the context (finish_reason "length"). UsageError, raised at once: the
    prompt is empty or leaves no room in the context.
    """
    statistics = statistics if statistics is not None else Statistics()
    check_prompt(decoder, prompt_ids)
    statistics.prompt_tokens = len(prompt_ids)
    return _generate(decoder, prompt_ids, settings, statistics)


def check_prompt(decoder: Decoder, prompt_ids: Sequence[int]) -> None:
    """UsageError unless at least one new token fits the context after this prompt."""
    context = decoder.config.max_position_embeddings
    if not prompt_ids:
        raise UsageError("the prompt is empty; give at least one character")
    if len(prompt_ids) >= context:
        raise UsageError(
            f"the prompt has {len(prompt_ids)} tokens, but the model's context is {context} tokens; shorten the prompt"
        )


def _generate(
    decoder: Decoder, prompt_ids: Sequence[int], settings: GenerationSettings, statistics: Statistics
) -> Iterator[int]:
    sampler = Sampler(settings.temperature, settings.top_k, settings.top_p, settings.seed)
    limit = min(settings.max_new_tokens, decoder.config.max_position_embeddings - len(prompt_ids))
    cache = decoder.new_cache(len(prompt_ids) + limit)
    ids = np.asarray(prompt_ids, np.int64)[None]
    start = time.perf_counter()
    for position in range(0, ids.shape[1], PREFILL_CHUNK):
        logits = decoder.forward(ids[:, position : position + PREFILL_CHUNK], cache)
    token = sampler(logits[0, -1])
    statistics.prefill_seconds = time.perf_counter() - start
    while True:
        if token in settings.stop_token_ids:
            statistics.finish_reason = "stop"
            return
        statistics.new_tokens += 1
        yield token
        if statistics.new_tokens == limit:
            return
        start = time.perf_counter()
        token = sampler(decoder.forward(np.array([[token]]), cache)[0, -1])
        statistics.decode_steps += 1
        statistics.decode_seconds += time.perf_counter() - start
