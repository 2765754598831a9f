"""`AnswerText`: the text of one answer as its tokens come, in pieces, and its parts when it has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from q3edge.artifact import Notice
from q3edge.runtime.completion import Piece
from q3edge.runtime.text.stop_strings import StopStrings
from q3edge.runtime.text.thinking import THINK_END, Splitter
from q3edge.runtime.text.tool_calls import CalledTool, CallSplitter

CUT_IN_THINKING = "cut-in-thinking"  # code of the notice for an answer that never began


class AnswerText:
    """Text of one answer: `thinking`, `answer` and `calls` so far; `stopped`: a stop string or call ended it."""

    def __init__(
        self,
        splitter: Splitter,
        stop_strings: Sequence[str],
        *,
        has_tools: bool = False,
        parallel_tool_calls: bool = True,
    ) -> None:
        """Begin; without tools, what looks like a call of one is text. Without parallel calls, the first ends it."""
        self.stopped = False
        self.calls: list[CalledTool] = []
        self._calls = CallSplitter() if has_tools else None
        self._parallel = parallel_tool_calls
        self._broken: list[str] = []
        self._length = 0  # of the answer, calls included
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
            yield from self._end_answer()
            self._unannounced = True
            self._parts = {True: self._parts[False], False: []}
            self._seen, self._length = [], 0
            self.calls, self._broken = [], []

    def finish(self) -> Iterator[Piece]:
        """Yield the text that is left after the last token."""
        yield from self._take(*self._splitter.finish())
        yield from self._end_answer()

    def cut(self, whole: str) -> str:
        """Text of all tokens without what a stop string cut off."""
        if self._stops.found is None:
            return whole
        seen = "".join(self._seen)
        start = whole.rfind(seen)
        return whole[: start + self._length] if start >= 0 else whole[: whole.rfind(self._stops.found)]

    def notices(self, finish_reason: str) -> Iterator[Notice]:
        """What a reader should know about an answer that has ended."""
        if self._splitter.open and not self.answer:
            why = "the limit of tokens" if finish_reason == "length" else "an end token"
            detail = f"{why} ended the thinking before any answer; allow more tokens, or switch thinking off"
            yield Notice(CUT_IN_THINKING, 1, detail)
        if self._broken:
            first = self._broken[0]
            detail = f"what looks like a call of a tool is none and stays in the answer: {first}"
            yield Notice("tool-call-broken", len(self._broken), detail)
        if self._unannounced:
            detail = (
                f"the text before {THINK_END} is thinking, though nothing opened it; it came out as answer at first"
            )
            yield Notice("thinking-unannounced", 1, detail)

    def _take(self, text: str, thinks: bool) -> Iterator[Piece]:
        if thinks:
            yield from self._end_answer()
            yield from self._give(text, thinks=True)
        elif text:
            self._seen.append(text)
            yield from self._answered(self._stops.push(text))
            if self._stops.found is not None and not self.stopped:
                self.stopped = True
                yield from self._end_answer()

    def _answered(self, text: str) -> Iterator[Piece]:
        """Take text of the answer that no stop string can begin in."""
        self._length += len(text)
        for found in (text,) if self._calls is None else self._calls.push(text):
            yield from self._given(found)
            if self.calls and not self._parallel:
                self.stopped = True
                return

    def _end_answer(self) -> Iterator[Piece]:
        """Give what was held back of the answer, which has ended for now."""
        yield from self._answered(self._stops.finish())
        if self._calls is not None:
            for found in self._calls.finish():
                yield from self._given(found)
            self._broken += self._calls.broken
            self._calls.broken = []

    def _given(self, found: str | CalledTool) -> Iterator[Piece]:
        if isinstance(found, CalledTool):
            self.calls.append(found)
            yield Piece("", tool_call=found)
        else:
            yield from self._give(found, thinks=False)

    def _give(self, text: str, *, thinks: bool) -> Iterator[Piece]:
        if text:
            self._parts[thinks].append(text)
            yield Piece(text, thinks)
