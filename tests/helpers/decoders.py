"""`ReferenceDecoder`: a decoder whose logits come from the float reference, for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.models import InMemoryWeights

Change = Callable[[NDArray[np.float32], int], NDArray[Any]]  # logits and the number of tokens cached before


class ReferenceDecoder:
    """A decoder that runs the float reference on all tokens so far, then changes the logits by `change`."""

    def __init__(self, source: InMemoryWeights, change: Change = lambda logits, _cached: logits) -> None:
        self.config, self.source, self.change = source.config, source, change
        self.largest_call = 0

    def new_cache(self, capacity: int, batch_size: int = 1) -> list[NDArray[np.int64]]:
        return [np.zeros((batch_size, 0), np.int64)]

    def forward(
        self, input_ids: NDArray[np.int64], cache: list[NDArray[np.int64]], *, keep: int = 1
    ) -> NDArray[np.float32]:
        cached = cache[0].shape[1]
        cache[0] = np.concatenate([cache[0], input_ids], axis=1)
        self.largest_call = max(self.largest_call, input_ids.shape[1])
        hidden = hidden_states(self.source, cache[0])[:, -(keep or input_ids.shape[1]) :]
        logits = LogitsHead(self.source).logits(hidden.flatten(0, 1)).reshape(*hidden.shape[:2], -1).numpy()
        return self.change(logits, cached)
