"""Loop over the passes of one request: `generate` for new token ids, `prefill` for a text that is only read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.runtime.generation.prefix_cache import PrefixCache
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.session.decoder import Decoder

PREFILL_CHUNK = 256  # tokens at once: fills the matrix kernels; 512 are no faster and take 35 MB more (docs/lab-log.md)


def generate(
    decoder: Decoder,
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    statistics: Statistics | None = None,
    *,
    cache: PrefixCache | None = None,
    draft: Draft | None = None,
) -> Iterator[int]:
    """Generate token ids one by one; a stop token ends them and is not yielded. Fills `statistics` as it goes.

    At most max_new_tokens, and no more than fit the context (finish_reason "length"). The prefix of the prompt that
    `cache`, of this decoder, holds is not computed again, but for the prompt's last two tokens. Accepted draft tokens
    of `draft` make it faster. UsageError, raised at once: the prompt is empty or leaves no room in the context; later:
    `cache` went to another generation.
    """
    context = decoder.config.max_position_embeddings
    request = Request(prompt_ids, settings, context, draft=draft, statistics=statistics)
    return new_tokens(request, cache or PrefixCache(decoder))


def new_tokens(request: Request, cache: PrefixCache) -> Iterator[int]:
    """Compute a new request on `cache` and yield its tokens. UsageError: `cache` went to another request."""
    request.start(cache.resume(request.ids, request.reusable))
    cached = cache.ids  # until another request begins
    while not request.finished:
        if cache.ids is not cached:
            raise UsageError("another generation has begun on this cache; finish one first, or give each its own")
        ids = request.next_ids(PREFILL_CHUNK)
        new = request.advance(cache.extend(ids, keep=request.keep))
        cache.truncate(request.computed)
        yield from new


def prefill(cache: PrefixCache, ids: Sequence[int]) -> NDArray[np.float32]:
    """Append `ids`, at least one, to `cache` in chunks; returns logits float32 [V] after the last."""
    for start in range(0, len(ids), PREFILL_CHUNK):
        logits: NDArray[np.float32] = cache.extend(ids[start : start + PREFILL_CHUNK])[0]
    return logits
