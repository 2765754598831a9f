"""The float checkpoint as the reference that candidates are compared with: logits of windows, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from q3edge.checkpoint.source import WeightSource
from q3edge.evaluation.cache import EvaluationCache, cache_key
from q3edge.evaluation.distance.streams import CHUNK, LogitsChunks
from q3edge.evaluation.distance.windows import Window, padded_inputs
from q3edge.reference.model import LogitsHead, hidden_states


class FloatReference:
    """The float model as reference: hidden states of a batch at once, each layer read once for it, the head on demand.

    `cache` None: none. States are stored there per batch, so another candidate on the same batch, or the same
    evaluation after a kill, skips the layers. digest: hex sha256 of the checkpoint, which a cache needs.
    cached_tokens: how many tokens' states the cache had so far. check: called before anything is stored; it raises
    where the source is not what the digest says any more.
    """

    def __init__(
        self,
        source: WeightSource,
        digest: str = "",
        cache: EvaluationCache | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._source, self._digest, self._cache, self._check = source, digest, cache, check
        self._head: LogitsHead | None = None
        self.cached_tokens = 0

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        """Logits of each window, float32 [<= CHUNK, V] at a time; consume them before the next call."""
        states = self._states(windows)
        self._head = self._head or LogitsHead(self._source)
        ends = np.cumsum([len(window.inputs) for window in windows]).tolist()
        return [_head_logits(self._head, states[start:end]) for start, end in zip([0, *ends], ends)]

    def _states(self, windows: Sequence[Window]) -> torch.Tensor:
        """Hidden states float32 [T, H] of the windows' tokens, one window after the other."""
        tokens = sum(len(window.inputs) for window in windows)
        ids = [window.inputs.tolist() for window in windows]
        key = cache_key(torch=str(torch.__version__), reference=self._digest, windows=ids)
        if self._cache is not None and (found := self._cache.hidden(key, tokens)) is not None:
            self.cached_tokens += tokens
            return torch.from_numpy(found)
        states = torch.cat(window_states(self._source, windows))
        if self._cache is not None:
            self._check()
            self._cache.save_hidden(key, states.numpy())
        return states


def window_states(
    source: WeightSource, windows: Sequence[Window], *, label: str = "float reference"
) -> list[torch.Tensor]:
    """Hidden states float32 [L, H] after the final norm of every window, each layer read once for all of them."""
    lengths = [len(window.inputs) for window in windows]
    padded = hidden_states(source, padded_inputs(windows), lengths, label=label)
    return [row[:length] for row, length in zip(padded, lengths)]


def _head_logits(head: LogitsHead, hidden: torch.Tensor) -> LogitsChunks:
    """Logits float32 [<= CHUNK, V] of hidden states [L, H]."""
    for part in torch.split(hidden, CHUNK):
        yield head.logits(part).numpy()
