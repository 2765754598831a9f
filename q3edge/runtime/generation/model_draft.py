"""`ModelDraft`: a smaller model of the same vocabulary guesses for a larger one.

Owns which models go together, and the small one's own cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from q3edge.artifact import Manifest
from q3edge.artifact.side_files import TOKENIZER_FILE
from q3edge.errors import InputError
from q3edge.runtime.generation.generate import prefill
from q3edge.runtime.generation.prefix_cache import PrefixCache
from q3edge.runtime.generation.speculation import Chances
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer

_KINDS = 10  # classes of guesses, by the probability that the small model gives them


class ModelDraft:
    """One generation's guesses: the tokens that the small model finds likeliest."""

    def __init__(self, cache: PrefixCache, cost: float) -> None:
        """`cache` is the small model's and may hold an earlier text; `cost`: its steps in steps of the large model."""
        self.cost = cost
        self._cache = cache
        self._guessed: list[tuple[int, int]] = []  # tokens of the last proposal and their kinds
        self._length = 0  # of the text they were guessed behind
        # A guess is about as often right as the small model thinks; experience corrects that.
        self._chances = Chances([(kind + 0.5) / _KINDS for kind in range(_KINDS)])

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        """See `Draft`. The text since the last proposal is read first; nothing is guessed beyond the context."""
        self._learn(ids)
        self._guessed, self._length = [], len(ids)
        if len(ids) > self._cache.context:
            return
        logits = prefill(self._cache, ids[self._cache.resume(ids, len(ids) - 1) :])
        while True:
            guess = int(logits.argmax())
            probability = 1 / float(np.exp(logits - logits[guess]).sum())
            kind = min(int(_KINDS * probability), _KINDS - 1)
            self._guessed.append((guess, kind))
            yield guess, self._chances[kind]
            if len(self._cache.ids) == self._cache.context:
                return
            logits = self._cache.extend([guess])[0]

    def _learn(self, ids: list[int]) -> None:
        for (guess, kind), token in zip(self._guessed, ids[self._length :]):
            self._chances.learn(kind, guess == token)
            if guess != token:  # what was guessed behind a wrong token says nothing
                return


def open_draft(folder: Path, large_folder: Path, large: Decoder, tokenizer: Tokenizer) -> Decoder:
    """The small model in `folder`, to guess for the one of `large_folder`, which has `tokenizer`.

    InputError: it is unfit, or its ids do not mean the same tokens.
    """
    small = Decoder(folder, threads=large.threads)
    sizes = small.config.vocab_size, large.config.vocab_size
    files = [decoder.manifest.files.get(TOKENIZER_FILE) for decoder in (small, large)]
    same = files[0] == files[1] or Tokenizer.load(folder, sizes[0]).vocabulary() == tokenizer.vocabulary()
    if sizes[0] != sizes[1] or not same:
        raise InputError(
            f"{folder}: its vocabulary ({sizes[0]} rows) is not that of {large_folder} ({sizes[1]} rows), for which it "
            "should guess; give a smaller model of the same family"
        )
    return small


def relative_cost(small: Manifest, large: Manifest) -> float:
    """Bytes of one model to bytes of the other: about the ratio of their steps, which mostly read weights."""
    return _model_bytes(small) / _model_bytes(large)


def _model_bytes(manifest: Manifest) -> int:
    return sum(record.size for name, record in manifest.files.items() if name.startswith("onnx/"))
