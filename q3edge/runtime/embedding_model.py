"""`EmbeddingModel`: an embedding artifact loaded for use. Texts in, vectors of length 1 out.

Reference: sentence-transformers with a Qwen3-Embedding checkpoint: its prompt before a query, the tokenizer's end token
behind each text, the last token's state, normalised; a vector that is cut is normalised again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact.sentence_files import query_prompt
from q3edge.errors import UsageError
from q3edge.runtime.arguments import check_texts, check_token_ids, folder_path
from q3edge.runtime.session.embedder import Embedder
from q3edge.runtime.session.loader import note_edits, open_graph
from q3edge.runtime.text.message_checks import check_unicode
from q3edge.runtime.text.tokenizer import Tokenizer

_PASS_TOKENS = 512  # of one pass, padding counted: more take memory, not less time; a longer text has its own
_TEXTS_AHEAD = 256  # that are sorted by length together, so that little is padded
_SMALLEST_LENGTH = 1e-12  # as of torch's normalize: a vector of zeros stays one


@dataclass(slots=True, eq=False)
class EmbeddingModel:
    """Loaded embedding model, safe to use from several threads. A context manager: leaving it closes the model."""

    folder: Path
    network: Embedder = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    query_prompt: str  # what the checkpoint puts before a query; empty: nothing
    _closed: bool = field(default=False, init=False, repr=False)

    @classmethod
    def open(cls, path: str | Path, *, threads: int | None = None, kernels: str | None = None) -> Self:
        """Check and load the folder `path`; `threads` None: one for each physical core.

        `kernels`: as for `Model.open`.

        InputError: a file is missing or unfit, or the folder holds another kind of model. UsageError: such
        kernels cannot be had.
        """
        folder = folder_path(path, "path")
        checked = open_graph(folder, "embedding")
        note_edits(folder, checked.manifest, checked.edited)
        network = Embedder(folder, threads=threads, kernels=kernels, checked=checked)
        return cls(folder, network, Tokenizer.load(folder, network.config.vocab_size), query_prompt(folder))

    @property
    def dimensions(self) -> int:
        """Numbers in a whole vector."""
        return self.network.config.hidden_size

    @property
    def context(self) -> int:
        """Most tokens of a text, the prompt before it and the end token included."""
        return self.network.config.context_length

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        query: bool = False,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> NDArray[np.float32]:
        """Compute the vectors of texts, float32 [N, D] of length 1, in their order; a str is one text.

        The dot product of two is their cosine. query: the texts ask for others, so the checkpoint's prompt goes before
        them; instruction: they do, and it says in a sentence, best in English, what for. Documents take neither.
        dimensions: D, the first of those that there are (None: all).
        TypeError: no texts. UsageError: a text is longer than the context or no valid Unicode, or dimensions are out of
        range.
        """
        return self.embed_ids(self.encode(texts, query=query, instruction=instruction), dimensions=dimensions)

    def embed_each(
        self,
        texts: Iterable[str],
        *,
        query: bool = False,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Compute the vector float32 [D] of each text in turn, reading 256 texts ahead; see `embed`."""
        self._check_dimensions(dimensions)
        waiting = iter(texts)
        while ahead := list(islice(waiting, _TEXTS_AHEAD)):
            yield from self.embed(ahead, query=query, instruction=instruction, dimensions=dimensions)

    def encode(
        self, texts: str | Sequence[str], *, query: bool = False, instruction: str | None = None
    ) -> list[list[int]]:
        """Encode texts as the model reads them, with prompt and end token; arguments and errors are those of `embed`.

        Control tokens spelled out in a text are text.
        """
        self._check_open()
        check_texts(texts, "texts")
        if instruction is not None and not isinstance(instruction, str):
            raise TypeError(f"instruction: give a str, not {type(instruction).__name__}")
        prompt = f"Instruct: {instruction}\nQuery:" if instruction is not None else self.query_prompt * query
        check_unicode(prompt, "the instruction")
        each = [texts] if isinstance(texts, str) else texts
        return [self._encoded(prompt + text, number) for number, text in enumerate(each, 1)]

    def embed_ids(self, texts: Sequence[Sequence[int]], *, dimensions: int | None = None) -> NDArray[np.float32]:
        """Compute the vectors float32 [N, D] of texts as `encode` makes them; errors are those of `passes`."""
        found = self.passes(texts, dimensions=dimensions)
        vectors = np.empty((len(texts), self._check_dimensions(dimensions)), np.float32)
        for places, some in found:
            vectors[places] = some
        return vectors

    def passes(
        self, texts: Sequence[Sequence[int]], *, dimensions: int | None = None
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Compute the vectors of texts as `encode` makes them, a pass at a time: places [B], and float32 [B, D].

        UsageError: a text is empty, longer than the context or holds an id that the model does not have, or dimensions
        are out of range.
        """
        self._check_open()
        kept = self._check_dimensions(dimensions)
        for number, ids in enumerate(texts, 1):
            check_token_ids(ids, self.network.config.vocab_size)
            self._check_length(ids, number)
        return (
            (places, self._unit_vectors([texts[place] for place in places], kept))
            for places in _passes([len(ids) for ids in texts])
        )

    def close(self) -> None:
        """Refuse every later call."""
        self._closed = True

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encoded(self, text: str, number: int) -> list[int]:
        check_unicode(text, f"text {number}")
        ids = self.tokenizer.encode_whole(text)
        self._check_length(ids, number)
        return ids

    def _unit_vectors(self, texts: Sequence[Sequence[int]], kept: int) -> NDArray[np.float32]:
        found = self.network.forward(texts)[:, :kept]
        length = np.linalg.norm(found, axis=-1, keepdims=True)
        vectors: NDArray[np.float32] = found / np.maximum(length, _SMALLEST_LENGTH)
        return vectors

    def _check_length(self, ids: Sequence[int], number: int) -> None:
        if not ids:
            raise UsageError(f"text {number} is empty; give at least one character")
        if len(ids) > self.context:
            raise UsageError(
                f"text {number} has {len(ids)} tokens, but the model's context is {self.context} tokens; cut it into "
                "parts"
            )

    def _check_dimensions(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.dimensions
        if isinstance(dimensions, bool) or not isinstance(dimensions, int):
            raise TypeError(f"dimensions: give an int, not {type(dimensions).__name__}")
        if not 1 <= dimensions <= self.dimensions:
            raise UsageError(f"dimensions = {dimensions}: expected 1 to {self.dimensions}, the model's")
        return dimensions

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the model of {self.folder} is closed; open it again")


def _passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts by pass, longest first: texts of like length together, at most _PASS_TOKENS with padding."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    while order:
        rows = max(1, _PASS_TOKENS // lengths[order[0]])
        yield order[:rows]
        order = order[rows:]
