"""Text of an answer's tokens as they arrive, split into thinking, between `<think>` and `</think>`, and answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from q3edge.runtime.text.tokenizer import Tokenizer

THINK_START, THINK_END = "<think>", "</think>"


class Splitter(Protocol):
    """Splitter of tokens, taken one by one, into thinking and answer."""

    def push(self, token: int) -> tuple[str, bool]:
        """Take one token; returns the text it completes (may be empty), and whether that is thinking."""

    def finish(self) -> tuple[str, bool]:
        """Return the remaining text (may be empty) after the last token, and whether it is thinking."""


def split(tokens: Iterable[int], splitter: Splitter) -> Iterator[tuple[str, bool]]:
    """Split the text of all tokens into pieces, none empty; yields each and whether it is thinking."""
    for token in tokens:
        piece = splitter.push(token)
        if piece[0]:
            yield piece
    last = splitter.finish()
    if last[0]:
        yield last


class PlainText:
    """`Splitter` for which everything is answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._stream = tokenizer.stream()

    def push(self, token: int) -> tuple[str, bool]:
        """Take one token; returns the text it completes (may be empty), and False: no thinking."""
        return self._stream.push(token), False

    def finish(self) -> tuple[str, bool]:
        """Return the remaining text (may be empty), and False: no thinking."""
        return self._stream.finish(), False


class ThinkingSplitter:
    """Splitter of answer tokens into thinking and answer at the added tokens `<think>` and `</think>`.

    Newlines around either part are layout and dropped. A tokenizer without the two added tokens gives only answer.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        """Start after a prompt; a template may open the thinking itself, at the prompt's end."""
        self._start = tokenizer.added_ids.get(THINK_START)
        self._end = tokenizer.added_ids.get(THINK_END)
        self._stream = tokenizer.stream()
        self._thinking = self._is_open(prompt_ids, tokenizer.special_ids)
        self._begun = False  # the current part has had more than newlines
        self._newlines = ""  # held back: they count only if text follows in the same part

    def push(self, token: int) -> tuple[str, bool]:
        """Take one token; returns the text it completes (may be empty), and whether that is thinking."""
        if token not in (self._start, self._end):
            return self._trim(self._stream.push(token)), self._thinking
        last = self.finish()
        self._thinking, self._begun, self._newlines = token == self._start, False, ""
        return last

    def finish(self) -> tuple[str, bool]:
        """Return the remaining text (may be empty), and whether it is thinking."""
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
