"""`Reranker`: a Qwen3-Reranker artifact, which is a language model, asked whether documents answer a query.

Reference: the card of Qwen3-Reranker-0.6B: its prompt, and the probability of "yes" against "no" as the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from q3edge.defaults import MAX_BATCH
from q3edge.errors import InputError, UsageError
from q3edge.runtime.arguments import check_texts
from q3edge.runtime.generation.token_logits import TokenLogits
from q3edge.runtime.model import Model
from q3edge.runtime.text.message_checks import check_unicode
from q3edge.runtime.text.tokenizer import Tokenizer

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_ASKED = "<Instruct>: {}\n<Query>: {}\n<Document>: {}"
_BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_NO_MARK = "\ue000"  # that breaks no control token of these
_ANSWERS = ("no", "yes")


@dataclass(slots=True, eq=False)
class Reranker:
    """Loaded reranker, safe to use from several threads. A context manager: leaving it closes the model."""

    model: Model
    answers: tuple[int, ...]  # token ids of no and yes

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        max_batch: int = MAX_BATCH,
        kv_memory: int | None = None,
        kernels: str | None = None,
    ) -> Self:
        """Check and load the folder `path`; arguments and errors are those of `Model.open`."""
        return cls.of(Model.open(path, threads=threads, max_batch=max_batch, kv_memory=kv_memory, kernels=kernels))

    @classmethod
    def of(cls, model: Model) -> Self:
        """Make a reranker of a loaded model. InputError: its tokenizer has no token for yes or for no.

        Whether the model was trained for it, its files do not say.
        """
        answers = answer_ids(model.tokenizer)
        if len(answers) < len(_ANSWERS):
            raise InputError(
                f"{model.folder}: its tokenizer has no token for {' or '.join(_ANSWERS)}, which rerankers answer with; "
                "expected a Qwen3-Reranker"
            )
        return cls(model, answers)

    def score(self, query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[float]:
        """Score documents by how far they answer a query: the probability of "yes", 0 to 1, in their order.

        What comes before a document is computed once. instruction: what is looked for, in a sentence, best in English.
        TypeError: the query is no text, or `documents` is no list of texts. UsageError: a text is no valid Unicode, or
        a document is too long for the context.
        """
        asked = self.requests(query, documents, instruction=instruction)
        generations = [self.model.engine.generate(request, patient=True) for request in asked]
        try:
            for generation in generations:
                for _ in generation:
                    pass
        finally:
            for generation in generations:
                generation.close()
        return [probability(request) for request in asked]

    def requests(self, query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[TokenLogits]:
        """Make the request for each document's score, its `probability` once an engine has carried it out.

        Arguments and errors are those of `score`.
        """
        prompts = self.encode(query, documents, instruction=instruction)
        return [TokenLogits(ids, self.model.context, self.answers) for ids in prompts]

    def encode(self, query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[list[int]]:
        """Encode the prompt of each document; arguments and errors are those of `score`.

        Control tokens spelled out in a text are text.
        """
        self.model.check_open()
        if not isinstance(query, str):
            raise TypeError(f"query: give a str, not {type(query).__name__}")
        if isinstance(documents, str):
            raise TypeError("documents: give a list of texts, not a str")
        check_texts(documents, "documents")
        prompts = encode_pairs(self.model.tokenizer, [(query, document) for document in documents], instruction)
        context = self.model.context
        if too_long := next((number for number, ids in enumerate(prompts, 1) if len(ids) >= context), None):
            raise UsageError(
                f"document {too_long} comes to {len(prompts[too_long - 1])} tokens with its query, but the model's "
                f"context is {context} tokens; cut it into parts"
            )
        return prompts

    def close(self) -> None:
        """Close the model, and refuse every later call."""
        self.model.close()

    def __enter__(self) -> Self:
        self.model.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of no and yes, as far as there are such tokens."""
    found = [tokenizer.id_of(answer) for answer in _ANSWERS]
    return tuple(token for token in found if token is not None)


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], instruction: str | None = None
) -> list[list[int]]:
    """Encode the prompt of each query and document. UsageError: a text is no valid Unicode."""
    before, behind = (tokenizer.encode_marked(text, _NO_MARK) for text in (_BEFORE, _BEHIND))
    prompts = []
    for number, (query, document) in enumerate(pairs, 1):
        text = _ASKED.format(instruction or DEFAULT_INSTRUCTION, query, document)
        check_unicode(text, f"the query or document {number}")
        prompts.append([*before, *tokenizer.encode_text(text), *behind])
    return prompts


def probability(request: TokenLogits) -> float:
    """Probability of "yes" against "no", 0 to 1, by a request that is finished."""
    return probability_of_yes(request.found)


def probability_of_yes(logits: NDArray[np.float32]) -> float:
    """Probability of "yes", 0 to 1, by the logits [2] of no and yes."""
    no, yes = logits.astype(np.float64)
    return float(1 / (1 + np.exp(no - yes)))
