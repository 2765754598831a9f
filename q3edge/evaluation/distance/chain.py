"""Comparison of models on windows: they read the same windows side by side, a chunk of logits at a time.

Logits are float32 [<= CHUNK, V] for as many tokens; a window's logits are those of each model, in the models' order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from q3edge import progress
from q3edge.errors import ValidationError
from q3edge.evaluation.distance.logits import compare_logits
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.streams import ComparedModel, LogitsChunks
from q3edge.evaluation.distance.windows import Window
from q3edge.reference.parallel import ordered_map

BATCH_TOKENS = 16_384  # padding included; bounds the hidden states in memory, 335 MB at the 32B shape
Found = TypeVar("Found")
Pair = tuple[int, int]  # indices of the reference and of the candidate among the models
Logits = NDArray[np.float32]


class NonFiniteLogitsError(ValidationError):
    """Logits that are NaN or infinite, with the text and token where the first of them are."""


def compare_models(
    windows: Sequence[Window], models: Sequence[ComparedModel], pairs: Sequence[Pair] = ((0, 1),)
) -> list[list[TokenMetrics]]:
    """Token metrics of every window (at least one) for each of `pairs`.

    NonFiniteLogitsError: some logits are NaN or infinite.
    """
    metrics: dict[int, list[TokenMetrics]] = dict(read_windows(windows, models, partial(_pair_metrics, windows, pairs)))
    return [[metrics[number][pair] for number in range(len(windows))] for pair in range(len(pairs))]


def read_windows(
    windows: Sequence[Window],
    models: Sequence[ComparedModel],
    read: Callable[[int, Sequence[LogitsChunks]], Found],
    *,
    groups: Sequence[str] | None = None,
    known: Collection[int] = (),
    workers: int = 1,
) -> Iterator[tuple[int, Found]]:
    """Number of each window that is not `known`, with the result of `read` for that number and the models' logits.

    groups: one for each window; batches do not mix them (None: all are one group). workers: how many windows are read
    at once; an artifact's forward then runs in several threads.
    """
    lengths = [len(window.inputs) for window in windows]
    with progress.task("compare", sum(lengths)) as advance:
        for batch in batches(lengths, groups or [""] * len(windows)):
            missing = [number for number in batch if number not in known]
            advance(sum(lengths[number] for number in batch if number in known))
            if not missing:
                continue
            # The whole batch, whatever is missing of it: its hidden states have one key in the cache.
            by_model = [model.logits([windows[number] for number in batch]) for model in models]
            logits = dict(zip(batch, zip(*by_model, strict=True), strict=True))
            missing.reverse()  # the longest first: near the end no worker waits long for another
            found = ordered_map(partial(_read, read, logits), missing, workers=workers)
            for number, result in zip(missing, found, strict=True):
                yield number, result
                advance(lengths[number])


def side_by_side(logits: Sequence[LogitsChunks]) -> Iterator[tuple[int, tuple[Logits, ...]]]:
    """Start of each chunk of a window, with every model's logits of it; none is kept while the next are computed."""
    start = 0
    while True:
        chunks = tuple(chunk for stream in logits for chunk in islice(stream, 1))
        if not chunks:
            return
        if len(chunks) < len(logits):
            raise ValueError("the models give different numbers of chunks")
        count = len(chunks[0])
        yield start, chunks
        del chunks
        start += count


def compare_chunk(window: Window, start: int, reference: Logits, candidate: Logits) -> TokenMetrics:
    """Metrics of the chunk of `window` that begins at input `start`, from logits [T, V] of both models.

    NonFiniteLogitsError: some are NaN or infinite.
    """
    metrics = compare_logits(reference, candidate, window.targets[start : start + len(reference)])
    finite = np.isfinite(metrics.logit_error + metrics.kl)
    if not finite.all():
        position = start + int(np.argmin(finite))
        raise NonFiniteLogitsError(f"text {window.text}, token {position}: logits are NaN or infinite; export again")
    return metrics


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


def _read(
    read: Callable[[int, Sequence[LogitsChunks]], Found], logits: dict[int, tuple[LogitsChunks, ...]], number: int
) -> Found:
    return read(number, logits[number])


def _pair_metrics(
    windows: Sequence[Window], pairs: Sequence[Pair], number: int, logits: Sequence[LogitsChunks]
) -> list[TokenMetrics]:
    """Token metrics of one window by pair."""
    parts: list[list[TokenMetrics]] = [[] for _ in pairs]
    for start, chunks in side_by_side(logits):
        for part, (reference, candidate) in zip(parts, pairs):
            part.append(compare_chunk(windows[number], start, chunks[reference], chunks[candidate]))
        del chunks  # else its memory is taken while the next are computed
    return [TokenMetrics.concatenate(part) for part in parts]
