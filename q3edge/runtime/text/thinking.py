"""Text of an answer's tokens as they arrive, split into thinking, between `<think>` and `</think>`, and answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from q3edge.runtime.text.tokenizer import Tokenizer

THINK_START, THINK_END = "<think>", "</think>"


class Splitter(Protocol):
    """Splitter of tokens, taken one by one, into thinking and answer.

    open: whether the thinking has not ended. unannounced: whether it ended without a beginning, so that all text before
    its end was thinking.
    """

    @property
    def open(self) -> bool: ...

    unannounced: bool

    def push(self, token: int) -> tuple[str, bool]:
        """Take one token; returns the text it completes (may be empty), and whether that is thinking."""

    def finish(self) -> tuple[str, bool]:
        """Return the remaining text (may be empty) after the last token, and whether it is thinking."""


class PlainText:
    """`Splitter` for which everything is answer."""

    open = unannounced = False

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

    Newlines around either part are layout and dropped; with `keep_newlines`, only where there is thinking, as a raw
    prompt may ask for text that begins with one. A tokenizer without the two added tokens gives only answer. A
    first `</think>` without `<think>`, as models write whose template should have opened the thinking, makes all before
    it thinking: `unannounced`, as it was given out as answer.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, keep_newlines: bool = False) -> None:
        """Start after a prompt; a template may open the thinking itself, at the prompt's end."""
        self._start = tokenizer.added_ids.get(THINK_START)
        self._end = tokenizer.added_ids.get(THINK_END)
        self._stream = tokenizer.stream()
        mark = self._last_mark(prompt_ids, tokenizer.special_ids)
        self._thinking = mark is not None and mark == self._start
        self._marked = mark is not None  # a `<think>` or `</think>` has come
        self._kept = keep_newlines and not self._thinking  # no thinking has come
        self.unannounced = False
        self._begun = False  # the current part has had more than newlines
        self._newlines = ""  # held back: they count only if text follows in the same part

    @property
    def open(self) -> bool:
        """Whether the thinking has begun and not ended."""
        return self._thinking

    def push(self, token: int) -> tuple[str, bool]:
        """Take one token; returns the text it completes (may be empty), and whether that is thinking."""
        if token not in (self._start, self._end):
            return self._trim(self._stream.push(token)), self._thinking
        last = self.finish()
        self._kept = False
        self.unannounced = self.unannounced or (token == self._end and not self._marked)
        self._marked = True
        self._thinking, self._begun, self._newlines = token == self._start, False, ""
        return last

    def finish(self) -> tuple[str, bool]:
        """Return the remaining text (may be empty), and whether it is thinking."""
        return self._trim(self._stream.finish()), self._thinking

    def _trim(self, text: str) -> str:
        if self._kept:
            return text
        text = self._newlines + text if self._begun else text.lstrip("\n")
        kept = text.rstrip("\n")
        self._newlines = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept

    def _last_mark(self, prompt_ids: Sequence[int], special_ids: frozenset[int]) -> int | None:
        """The `<think>` or `</think>` that the prompt has for this answer, after its last special token."""
        for token in reversed(prompt_ids):
            if token in (self._start, self._end):
                return token
            if token in special_ids:
                break
        return None
