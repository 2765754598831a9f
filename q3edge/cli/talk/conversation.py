"""`Conversation`: what was said so far, and how the next message is answered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from q3edge.cli.answers import awaited, end_of_answer, say_statistics, show_pieces
from q3edge.runtime.text.thinking import THINK_END
from q3edge.terminal import say

if TYPE_CHECKING:
    from q3edge.runtime.completion import Completion, Piece, Stream
    from q3edge.runtime.model import Model
    from q3edge.runtime.text.messages import Message


_NEARLY_FULL = 0.9


class StoppedError(KeyboardInterrupt):
    """Ctrl-C ended an answer; kept: what had come of it joined the conversation, else its message was forgotten."""

    def __init__(self, *, kept: bool) -> None:
        super().__init__()
        self.kept = kept


class Conversation:
    """Messages so far, without the system prompt, and how the next is answered: all of it may be changed between two.

    as_json: an answer is one line of JSON on stdout. `answered`: the answers of this process that came to their end,
    and `last` of this conversation; `new_tokens` and `decode_seconds` are sums over them.
    """

    def __init__(
        self, model: Model, system: str | None, thinking: bool | None, settings: dict[str, Any], *, as_json: bool
    ) -> None:
        self.model, self.system, self.thinking, self.settings = model, system, thinking, settings
        self.messages: list[Message] = []
        self.answered = self.new_tokens = 0
        self.decode_seconds = 0.0
        self.last: Completion | None = None
        self._as_json = as_json

    @property
    def whole(self) -> list[Message]:
        """All messages, the system prompt first."""
        first: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self.messages]

    @property
    def context(self) -> int:
        """Tokens that the model's context has."""
        return self.model.context

    @property
    def context_used(self) -> int:
        """Tokens that the last turn took of it, its thinking too; 0 at the beginning."""
        if self.last is None:
            return 0
        return self.last.stats.prompt_tokens + self.last.stats.new_tokens

    def answer(self, text: str) -> None:
        """Answer a message of the user, as it comes, and let both join the conversation.

        StoppedError: Ctrl-C. UsageError: the conversation fills the context, or the answer is thinking alone.
        InputError: the template fails.
        """
        asked: Message = {"role": "user", "content": text}
        pieces: list[Piece] = []
        try:
            with self.model.stream([*self.whole, asked], thinking=self.thinking, **self.settings) as stream:
                self._show(stream, pieces)
        except KeyboardInterrupt:
            answer, thinking = (
                "".join(piece.text for piece in pieces if piece.thinking is kind) for kind in (False, True)
            )
            if kept := bool(answer.strip()):
                self._join(asked, answer, thinking)
            raise StoppedError(kept=kept) from None
        completion = stream.completion
        self._join(asked, completion.answer, completion.thinking)
        self._count(completion)
        if self.context_used > _NEARLY_FULL * self.context:
            say(f"[{self.context_used} of {self.context} tokens of context are taken; /clear begins anew]")

    def clear(self) -> None:
        """Forget all messages but the system prompt."""
        self.messages, self.last = [], None

    def _show(self, stream: Stream, pieces: list[Piece]) -> None:
        """Show an answer; its pieces are in `pieces` before they are shown."""
        if self._as_json:
            click.echo(json.dumps(stream.finish().to_json(), ensure_ascii=False, allow_nan=False))
        else:
            try:
                show_pieces(_kept(awaited(stream), pieces))
            finally:
                click.echo()
            say_statistics(stream.completion)
        end_of_answer(stream.completion)

    def _join(self, asked: Message, answer: str, thinking: str) -> None:
        # The template decides what of the thinking the model sees again: Qwen3's drops that of earlier turns. Without
        # the field it would take for thinking what stands before a </think> in the answer.
        reply: Message = {"role": "assistant", "content": answer}
        if thinking or THINK_END in answer:
            reply["reasoning_content"] = thinking
        self.messages += [asked, reply]

    def _count(self, completion: Completion) -> None:
        self.answered += 1
        self.last = completion
        self.new_tokens += completion.stats.new_tokens
        self.decode_seconds += completion.stats.decode_seconds


def _kept(pieces: Iterable[Piece], kept: list[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        kept.append(piece)
        yield piece
