"""`ModelDraft`: draft tokens for a large model, proposed by a smaller one with the same vocabulary.

Also checks that two models fit together. `speculation` decides how many draft tokens to check.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from q3edge.artifact import Manifest
from q3edge.artifact.side_files import TOKENIZER_FILE
from q3edge.errors import InputError
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.speculation import AcceptanceRates
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer

_KINDS = 10  # classes of draft tokens, by the probability that the small model gives them


class ModelDraft:
    """Draft of one generation: the tokens that the small model finds most likely."""

    def __init__(self, slots: Slots, cost: float) -> None:
        """Start with `slots` of the small model, one of them free whenever tokens are proposed.

        `cost`: of a pass of the small model over one token, in such passes of the large model.
        """
        self.cost = cost
        self._slots = slots
        self._proposed: list[tuple[int, int]] = []  # tokens of the last proposal and their kinds
        self._length = 0  # of the text they were proposed for
        # A draft token is accepted about as often as the small model thinks; experience corrects that.
        self._rates = AcceptanceRates([(kind + 0.5) / _KINDS for kind in range(_KINDS)])

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        """Propose tokens that may follow `ids`, with the chance of each to be accepted; none beyond the context.

        The small model first reads the text since the last proposal.
        """
        self._learn(ids)
        self._proposed, self._length = [], len(ids)
        if len(ids) > self._slots.context:
            return
        slot = self._slots.take(ids, len(ids) - 1)
        assert slot is not None
        try:
            logits = self._slots.read(slot, ids[len(slot.ids) :])
            while True:
                token = int(logits.argmax())
                probability = 1 / float(np.exp(logits - logits[token]).sum())
                kind = min(int(_KINDS * probability), _KINDS - 1)
                self._proposed.append((token, kind))
                yield token, self._rates[kind]
                if len(slot.ids) == self._slots.context:
                    return
                logits = self._slots.extend(slot, [token])[0]
        finally:
            self._slots.give_back(slot)

    def _learn(self, ids: list[int]) -> None:
        for (proposed, kind), token in zip(self._proposed, ids[self._length :]):
            self._rates.learn(kind, proposed == token)
            if proposed != token:  # draft tokens after a rejected one say nothing
                return


def open_draft(
    folder: Path, large_folder: Path, large: Decoder, tokenizer: Tokenizer, kernels: str | None = None
) -> Decoder:
    """Open the small model in `folder` as a draft for the one of `large_folder`, which has `tokenizer`.

    kernels: as for `Decoder`.

    InputError: it cannot be loaded, or its ids do not mean the same tokens.
    """
    small = Decoder(folder, threads=large.threads, kernels=kernels)
    sizes = small.config.vocab_size, large.config.vocab_size
    files = [decoder.manifest.files.get(TOKENIZER_FILE) for decoder in (small, large)]
    same = files[0] == files[1] or Tokenizer.load(folder, sizes[0]).vocabulary() == tokenizer.vocabulary()
    if sizes[0] != sizes[1] or not same:
        raise InputError(
            f"{folder}: its vocabulary ({sizes[0]} rows) is not that of {large_folder} ({sizes[1]} rows), for which it "
            "should propose tokens; give a smaller model of the same family"
        )
    return small


def relative_cost(small: Manifest, large: Manifest) -> float:
    """Ratio of the models' bytes: about the ratio of their decode steps' times, which mostly read weights."""
    return _model_bytes(small) / _model_bytes(large)


def _model_bytes(manifest: Manifest) -> int:
    return sum(record.size for name, record in manifest.files.items() if name.startswith("onnx/"))
