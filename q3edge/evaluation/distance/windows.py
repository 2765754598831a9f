"""Text -> windows of token ids that a model is evaluated on: the built-in text, and how texts are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q3edge.areas import AREAS
from q3edge.defaults import MAX_TOKENS
from q3edge.errors import InputError, UsageError
from q3edge.runtime.padding import right_padded
from q3edge.storage.text_files import read_utf8

WINDOW_LENGTH = 512
MIN_SCORED = 16  # a shorter rest of a text is left out: its tokens would be predicted from almost nothing


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text with the name that reports show for it."""

    name: str
    content: str


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Token ids int64 [L + 1] of one text: the first L are the inputs, and token i + 1 is the target of input i."""

    text: str
    token_ids: NDArray[np.int64]

    @property
    def inputs(self) -> NDArray[np.int64]:
        """Inputs of the model, int64 [L]."""
        return self.token_ids[:-1]

    @property
    def targets(self) -> NDArray[np.int64]:
        """Targets, int64 [L]: the token that follows each input."""
        return self.token_ids[1:]


def built_in_texts() -> list[Text]:
    """Built-in texts: one short original text per area, named after the area, shipped with q3edge."""
    folder = files("q3edge.data") / "validation"
    return [Text(name, (folder / f"{name}.txt").read_text(encoding="utf-8")) for name in AREAS]


def read_texts(paths: Sequence[Path]) -> list[Text]:
    """Read UTF-8 text files; InputError names the file that is missing or not text."""
    return [Text(path.name, read_utf8(path, "a UTF-8 text file")) for path in paths]


def cut_windows(
    texts: Sequence[Text],
    encode: Callable[[str], list[int]],
    *,
    context: int,
    length: int = WINDOW_LENGTH,
    max_tokens: int = MAX_TOKENS,
) -> tuple[Window, ...]:
    """Windows of at most `length` inputs, at most `max_tokens` inputs in all, taken from the texts in turn.

    Windows of one text follow each other, sharing one token; a rest shorter than MIN_SCORED is left out.
    UsageError: length out of 16..`context`, or max_tokens below 16. InputError: a text too short for any window.
    """
    if not MIN_SCORED <= length <= context:
        raise UsageError(f"window length {length}: expected {MIN_SCORED}..{context}, the model's context")
    if max_tokens < MIN_SCORED:
        raise UsageError(f"max tokens {max_tokens}: expected at least {MIN_SCORED}")
    per_text = [_windows_of(text, encode(text.content), length) for text in texts]
    chosen, left = [], max_tokens
    for window in (w for turn in zip_longest(*per_text) for w in turn if w is not None):
        fitting = window.token_ids[: left + 1]
        if len(fitting) <= MIN_SCORED:
            break
        chosen.append(Window(window.text, fitting))
        left -= len(fitting) - 1
    return tuple(chosen)


def padded_inputs(windows: Iterable[Window]) -> NDArray[np.int64]:
    """Inputs of all windows, int64 [B, S], shorter ones padded on the right with 0."""
    return right_padded([window.inputs.tolist() for window in windows])


def _windows_of(text: Text, ids: list[int], length: int) -> list[Window]:
    tokens = np.asarray(ids, np.int64)
    starts = range(0, len(tokens) - MIN_SCORED, length)
    if not starts:
        raise InputError(f"{text.name}: {len(tokens)} tokens; expected at least {MIN_SCORED + 1} to evaluate on")
    return [Window(text.name, tokens[start : start + length + 1]) for start in starts]
