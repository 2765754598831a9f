"""Who the candidate is compared with: the float checkpoint, or another artifact. Logits of windows, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from q3edge.checkpoint.source import WeightSource
from q3edge.evaluation.cache import EvaluationCache, cache_key
from q3edge.evaluation.distance.streams import CausalDecoder, LogitsChunks, decoder_logits, head_logits
from q3edge.evaluation.distance.windows import Window, padded_inputs
from q3edge.reference.model import LogitsHead, hidden_states

BATCH_TOKENS = 16_384  # padding included; bounds the hidden states in memory, 335 MB at the 32B shape


class Reference(Protocol):
    """A model that gives logits of several windows; cached_tokens: how many tokens' states the cache had so far."""

    cached_tokens: int

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        """For each window its logits, float32 [<= CHUNK, V] at a time; to be consumed before the next call, each by any
        thread.
        """


class ArtifactReference:
    """An exported artifact, run as the candidate is run: the same artifact gives the same bits."""

    def __init__(self, decoder: CausalDecoder) -> None:
        self._decoder = decoder
        self.cached_tokens = 0

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        """See `Reference`."""
        return [decoder_logits(self._decoder, window.inputs) for window in windows]


class FloatReference:
    """The float model: hidden states of a batch at once, each layer read once for it, and the head when asked.

    `cache` None: none. The states are kept there per batch, so another candidate on the same batch, or the same
    evaluation after a kill, skips the layers. digest: hex sha256 of the checkpoint.
    """

    def __init__(self, source: WeightSource, digest: str, cache: EvaluationCache | None) -> None:
        self._source, self._digest, self._cache = source, digest, cache
        self._head: LogitsHead | None = None
        self.cached_tokens = 0

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        """See `Reference`."""
        states = self._states(windows)
        self._head = self._head or LogitsHead(self._source)
        ends = np.cumsum([len(window.inputs) for window in windows]).tolist()
        return [head_logits(self._head, states[start:end]) for start, end in zip([0, *ends], ends)]

    def _states(self, windows: Sequence[Window]) -> torch.Tensor:
        """float32 [T, H], the windows' tokens one after the other."""
        lengths = [len(window.inputs) for window in windows]
        tokens = sum(lengths)
        ids = [window.inputs.tolist() for window in windows]
        key = cache_key(torch=str(torch.__version__), reference=self._digest, windows=ids)
        if self._cache is not None and (found := self._cache.hidden(key, tokens)) is not None:
            self.cached_tokens += tokens
            return torch.from_numpy(found)
        padded = hidden_states(self._source, padded_inputs(windows), lengths)
        states = torch.cat([row[:length] for row, length in zip(padded, lengths)])
        if self._cache is not None:
            self._cache.save_hidden(key, states.numpy())
        return states


def batches(lengths: Sequence[int], groups: Sequence[str]) -> list[list[int]]:
    """Indices of windows in batches of at most BATCH_TOKENS, padding included, each of one group and similar lengths.

    A batch does not depend on the other groups, so adding a suite leaves the cached batches of the rest as they are.
    """
    made: list[list[int]] = []
    for group in dict.fromkeys(groups):
        members = [index for index, found in enumerate(groups) if found == group]
        batch: list[int] = []
        for index in sorted(members, key=lambda index: lengths[index]):
            if batch and lengths[index] * (len(batch) + 1) > BATCH_TOKENS:
                made.append(batch)
                batch = []
            batch.append(index)
        made.append(batch)
    return made
