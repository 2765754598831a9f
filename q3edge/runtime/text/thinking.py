"""Tokens of an answer to text as they arrive, apart: what stands between `<think>` and `</think>`, and what follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from q3edge.runtime.text.tokenizer import Tokenizer

THINK_START, THINK_END = "<think>", "</think>"


class Splitter(Protocol):
    """Text of tokens one by one, and whether each piece is thinking."""

    def push(self, token: int) -> tuple[str, bool]:
        """The text that `token` completes (may be empty), and whether it is thinking."""

    def finish(self) -> tuple[str, bool]:
        """What is left when no more tokens come."""


def split(tokens: Iterable[int], splitter: Splitter) -> Iterator[tuple[str, bool]]:
    """The text of all tokens in pieces, none empty, each with whether it is thinking."""
    for token in tokens:
        piece = splitter.push(token)
        if piece[0]:
            yield piece
    last = splitter.finish()
    if last[0]:
        yield last


class PlainText:
    """A `Splitter` for which everything is answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._stream = tokenizer.stream()

    def push(self, token: int) -> tuple[str, bool]:
        """See `Splitter`."""
        return self._stream.push(token), False

    def finish(self) -> tuple[str, bool]:
        """See `Splitter`."""
        return self._stream.finish(), False


class ThinkingSplitter:
    """A `Splitter` that knows the two added tokens.

    Newlines around either part are layout and dropped. A tokenizer without the two added tokens gives only answer.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        """`prompt_ids`: a template may open the thinking itself, at the end of the prompt."""
        self._start = tokenizer.added_ids.get(THINK_START)
        self._end = tokenizer.added_ids.get(THINK_END)
        self._stream = tokenizer.stream()
        self._thinking = self._is_open(prompt_ids, tokenizer.special_ids)
        self._begun = False  # the current part has had more than newlines
        self._newlines = ""  # held back: they count only if text follows in the same part

    def push(self, token: int) -> tuple[str, bool]:
        """See `Splitter`."""
        if token not in (self._start, self._end):
            return self._trim(self._stream.push(token)), self._thinking
        last = self.finish()
        self._thinking, self._begun, self._newlines = token == self._start, False, ""
        return last

    def finish(self) -> tuple[str, bool]:
        """See `Splitter`."""
        return self._trim(self._stream.finish()), self._thinking

    def _trim(self, text: str) -> str:
        text = self._newlines + text if self._begun else text.lstrip("\n")
        kept = text.rstrip("\n")
        self._newlines = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept

    def _is_open(self, prompt_ids: Sequence[int], special_ids: frozenset[int]) -> bool:
        for token in reversed(prompt_ids):
            if token in (self._start, self._end):
                return token == self._start
            if token in special_ids:
                break
        return False
