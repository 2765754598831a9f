"""`PrefixCache`: a KV cache that reuses the longest cached prefix of a prompt.

Token ids and cache agree at all times, after an error or an abandoned generation too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.kv_cache import GROWTH_STEP


class PrefixCache:
    """Token ids of one sequence, and their keys and values in one decoder. It grows as they come.

    It serves one generation at a time. Each begins with `resume`, which makes `ids` a new list: so an earlier
    generation that was suspended and continues can see that it has lost the cache.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.context = decoder.config.max_position_embeddings
        self._decoder = decoder
        self._cache = decoder.new_cache(min(GROWTH_STEP, self.context))
        self._logits = np.empty((1, 1, decoder.config.vocab_size), np.float32)
        self.ids: list[int] = []  # the valid part: what the cache may hold beyond them counts as forgotten

    def resume(self, ids: Sequence[int], at_most: int) -> int:
        """Keep the longest cached prefix of `ids`, at most `at_most` tokens; returns its length."""
        cached = self.ids[: max(at_most, 0)]
        different = (i for i, (old, wanted) in enumerate(zip(cached, ids)) if old != wanted)
        self.ids = cached[: next(different, len(ids))]
        return len(self.ids)

    def extend(self, ids: Sequence[int], keep: int = 1) -> NDArray[np.float32]:
        """Append `ids`, at least one; returns logits float32 [keep, V] after each of the last `keep`.

        The next call may overwrite them. UsageError: the context is full.
        """
        self._cache.truncate(len(self.ids))
        self._cache.reserve(len(self.ids) + len(ids))
        out = self._logits if len(ids) == 1 else None
        logits = self._decoder.forward(np.array([ids], np.int64), self._cache, keep=keep, out=out)
        self.ids += ids
        rows: NDArray[np.float32] = logits[0]
        return rows

    def truncate(self, length: int) -> None:
        """Forget every token after the first `length`."""
        del self.ids[length:]
