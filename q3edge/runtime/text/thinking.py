"""Text of an answer's tokens as they arrive, split into thinking, between `<think>` and `</think>`, and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from q3edge.runtime.text.control_tokens import unused_character
from q3edge.runtime.text.tokenizer import Tokenizer

THINK_START, THINK_END = "<think>", "</think>"
# Word for word what Qwen's documentation appends (quickstart, "Thinking Budget").
EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    f"{THINK_END}\n\n"
)


@dataclass(frozen=True, slots=True)
class ThinkingTokens:
    """Ids of one tokenizer that a thinking budget needs.

    early_stop: `EARLY_STOP`. empty_block_end: what makes of `<think>` the empty block that Qwen3's template writes
    where thinking is off; begun_block_end: the same, where the prompt has put a newline behind `<think>`. special: the
    special tokens, none of which stands inside an answer.
    """

    start: int
    end: int
    early_stop: tuple[int, ...]
    empty_block_end: tuple[int, ...]
    begun_block_end: tuple[int, ...]
    special: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """Find them; None: the tokenizer has no `<think>` and `</think>`, so its model does not think."""
        start, end = tokenizer.added_ids.get(THINK_START), tokenizer.added_ids.get(THINK_END)
        if start is None or end is None:
            return None
        texts = EARLY_STOP, f"\n\n{THINK_END}\n\n", f"\n{THINK_END}\n\n"
        mark = unused_character(texts)
        early_stop, empty_block_end, begun_block_end = (tuple(tokenizer.encode_marked(text, mark)) for text in texts)
        return cls(start, end, early_stop, empty_block_end, begun_block_end, tokenizer.special_ids)

    def opened(self, prompt_ids: Sequence[int]) -> int | None:
        """Number of tokens behind the `<think>` that the prompt opens its answer with; None: it opens no thinking."""
        place = _last_mark(prompt_ids, (self.start, self.end), self.special)
        return None if place is None or prompt_ids[place] == self.end else len(prompt_ids) - place - 1

    def begun(self, prompt_ids: Sequence[int]) -> bool | None:
        """Whether the prompt opens the thinking of its answer (True) or has ended it (False); None: neither."""
        mark = _last_mark(prompt_ids, (self.start, self.end), self.special)
        return None if mark is None else prompt_ids[mark] == self.start


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
        begun = thinking_begun(tokenizer, prompt_ids)
        self._thinking = begun is True
        self._marked = begun is not None  # a `<think>` or `</think>` has come
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


def thinking_begun(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool | None:
    """Whether the prompt opens the thinking of its answer (True) or has ended it (False); None: neither."""
    start, end = tokenizer.added_ids.get(THINK_START), tokenizer.added_ids.get(THINK_END)
    mark = _last_mark(prompt_ids, (start, end), tokenizer.special_ids)
    return None if mark is None else prompt_ids[mark] == start


def _last_mark(prompt_ids: Sequence[int], marks: Sequence[int | None], special_ids: frozenset[int]) -> int | None:
    """Place of the `<think>` or `</think>` that the prompt has for this answer, after its last special token."""
    for place in reversed(range(len(prompt_ids))):
        if prompt_ids[place] in marks:
            return place
        if prompt_ids[place] in special_ids:
            break
    return None
