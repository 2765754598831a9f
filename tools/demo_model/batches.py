"""Training batches: the curriculum in chunks, sorted by length so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from .curriculum import examples
from .files import token_id

CHUNK = 16_384
_CHUNKS_PER_SEED = 1_000_003


@dataclass(frozen=True)
class Batch:
    """Token ids (rows padded on the right) and the places whose next token is learnt."""

    ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor


def _encode(tokenizer: Tokenizer, seed: int) -> list[tuple[list[int], int]]:
    """Tokenise one chunk; each text comes with the length of its prompt."""
    drawn = list(examples(seed, CHUNK))
    prompts = tokenizer.encode_batch_fast([item.prompt for item in drawn])
    replies = tokenizer.encode_batch_fast([item.reply for item in drawn])
    pairs = zip(prompts, replies, strict=True)
    return [(prompt.ids + reply.ids, len(prompt.ids)) for prompt, reply in pairs]


def padded(texts: list[list[int]], pad: int) -> npt.NDArray[np.int64]:
    """The texts' token ids [texts, tokens of the longest], padded on the right."""
    ids = np.full((len(texts), max(map(len, texts))), pad, dtype=np.int64)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = tokens
    return ids


def _batch(texts: list[tuple[list[int], int]], pad: int) -> Batch:
    ids = padded([tokens for tokens, _ in texts], pad)
    learnt = np.zeros(ids.shape, dtype=bool)
    for row, (tokens, prompt) in enumerate(texts):
        learnt[row, prompt - 1 : len(tokens) - 1] = True
    rows, columns = np.nonzero(learnt)
    parts = (ids[:, :-1], rows, columns, ids[rows, columns + 1])
    return Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def chunk_batches(tokenizer: Tokenizer, seed: int, tokens: int) -> list[Batch]:
    """Cut one chunk into batches of about that many tokens, in a random order."""
    texts = sorted(_encode(tokenizer, seed), key=lambda text: -len(text[0]))
    pad = token_id(tokenizer, "<|endoftext|>")
    batches, start = [], 0
    while start < len(texts):
        count = max(1, tokens // len(texts[start][0]))
        batches.append(_batch(texts[start : start + count], pad))
        start += count
    Random(seed).shuffle(batches)
    return batches


def stream(tokenizer: Tokenizer, seed: int, chunk: int, tokens: int) -> Iterator[tuple[int, Batch]]:
    """Yield batches from that chunk on, without end, each with its chunk's number."""
    while True:
        for batch in chunk_batches(tokenizer, seed * _CHUNKS_PER_SEED + chunk, tokens):
            yield chunk, batch
        chunk += 1
