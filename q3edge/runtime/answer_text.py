"""`AnswerText`: the text of one answer as its tokens come, in pieces, and its parts when it has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from q3edge.artifact import Notice
from q3edge.runtime.completion import Piece
from q3edge.runtime.text.stop_strings import StopStrings
from q3edge.runtime.text.thinking import THINK_END, Splitter

CUT_IN_THINKING = "cut-in-thinking"  # code of the notice for an answer that never began


class AnswerText:
    """Text of one answer: `thinking` and `answer` so far; `stopped`: a stop string ended it."""

    def __init__(self, splitter: Splitter, stop_strings: Sequence[str]) -> None:
        self.stopped = False
        self._splitter = splitter
        self._stops = StopStrings(stop_strings)
        self._parts: dict[bool, list[str]] = {False: [], True: []}
        self._unannounced = False
        self._seen: list[str] = []  # the answer with what a stop string cut off

    @property
    def thinking(self) -> str:
        """Thinking before the answer."""
        return "".join(self._parts[True])

    @property
    def answer(self) -> str:
        """Answer without its thinking."""
        return "".join(self._parts[False])

    def push(self, token: int) -> Iterator[Piece]:
        """Take one token; yields the text that it completes."""
        yield from self._take(*self._splitter.push(token))
        if self._splitter.unannounced and not self._unannounced:
            yield from self._give(self._stops.finish(), thinks=False)
            self._unannounced = True
            self._parts = {True: self._parts[False], False: []}
            self._seen = []

    def finish(self) -> Iterator[Piece]:
        """Yield the text that is left after the last token."""
        yield from self._take(*self._splitter.finish())
        yield from self._give(self._stops.finish(), thinks=False)

    def cut(self, whole: str) -> str:
        """Text of all tokens without what a stop string cut off."""
        if self._stops.found is None:
            return whole
        seen = "".join(self._seen)
        start = whole.rfind(seen)
        return whole[: start + len(self.answer)] if start >= 0 else whole[: whole.rfind(self._stops.found)]

    def notices(self, finish_reason: str) -> Iterator[Notice]:
        """What a reader should know about an answer that has ended."""
        if self._splitter.open and not self.answer:
            why = "the limit of tokens" if finish_reason == "length" else "an end token"
            detail = f"{why} ended the thinking before any answer; allow more tokens, or switch thinking off"
            yield Notice(CUT_IN_THINKING, 1, detail)
        if self._unannounced:
            detail = (
                f"the text before {THINK_END} is thinking, though nothing opened it; it came out as answer at first"
            )
            yield Notice("thinking-unannounced", 1, detail)

    def _take(self, text: str, thinks: bool) -> Iterator[Piece]:
        if thinks:
            yield from self._give(self._stops.finish(), thinks=False)
            yield from self._give(text, thinks=True)
        elif text:
            self._seen.append(text)
            yield from self._give(self._stops.push(text), thinks=False)
            self.stopped = self._stops.found is not None

    def _give(self, text: str, *, thinks: bool) -> Iterator[Piece]:
        if text:
            self._parts[thinks].append(text)
            yield Piece(text, thinks)
