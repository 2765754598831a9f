"""`q3edge chat`: a conversation in the terminal, or over pipes, a message a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from q3edge.cli.answers import end_of_answer, open_model, settings_given, show_pieces
from q3edge.cli.options.answering import answering_options
from q3edge.cli.options.common import MODEL_FOLDER
from q3edge.cli.standard_streams import is_terminal, stdin_lines
from q3edge.errors import UsageError
from q3edge.terminal import say

if TYPE_CHECKING:
    from q3edge.runtime.model import Model
    from q3edge.runtime.text.messages import Message

_HELP = (
    "/clear forgets the conversation, /think and /no-think switch the thinking, /exit ends; "
    "a backslash at the end of a line goes on in the next; Ctrl-C ends an answer"
)


@click.command(short_help="Hold a conversation.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@answering_options
def chat(
    folder: Path,
    system: str | None,
    thinking: bool | None,
    chat_template: Path | None,
    draft: Path | None,
    no_speculate: bool,
    threads: int | None,
    **flags: Any,
) -> None:
    """Hold a conversation with the ONNX model in DIR, a folder or the id of one on the hub.

    A line is a message; one that ends in a backslash goes on in the next. /clear forgets the conversation, /think and
    /no-think switch the thinking, /exit or the end of the input ends. Answers go to stdout, all else to stderr.
    """
    terminal = is_terminal()
    with open_model(
        folder, threads=threads, draft=draft, no_speculate=no_speculate, chat_template=chat_template
    ) as model:
        talk = _Conversation(model, system, thinking, settings_given(flags))
        if terminal:
            say(_HELP)
        for message in _messages(_typed() if terminal else stdin_lines()):
            if message == "/exit":
                return
            try:
                talk.take(message)
            except UsageError as error:
                if not terminal:
                    raise
                say(f"q3edge: {error}")
            except KeyboardInterrupt:
                if not terminal:
                    raise
                say("\ninterrupted")


class _Conversation:
    """Messages so far, and how the next is answered."""

    def __init__(self, model: Model, system: str | None, thinking: bool | None, settings: dict[str, Any]) -> None:
        self._model, self._thinking, self._settings = model, thinking, settings
        self._first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._said: list[Message] = []

    def take(self, message: str) -> None:
        """Follow a command, or answer a message; one that got no answer is forgotten.

        UsageError: an unknown command, a conversation that fills the context, thinking without an answer.
        """
        if message == "/clear":
            self._said.clear()
        elif message in ("/think", "/no-think"):
            self._thinking = message == "/think"
        elif message.startswith("/"):
            raise UsageError(f"{message.split()[0]}: no such command; {_HELP}")
        elif message.strip():
            self._answer({"role": "user", "content": message})

    def _answer(self, asked: Message) -> None:
        with self._model.stream(
            [*self._first, *self._said, asked], thinking=self._thinking, **self._settings
        ) as stream:
            try:
                show_pieces(stream)
            finally:
                click.echo()
        end_of_answer(stream.completion)
        self._said += [asked, {"role": "assistant", "content": stream.completion.answer}]


def _messages(lines: Iterator[str]) -> Iterator[str]:
    """Join lines that end in a backslash with the next."""
    begun = ""
    for line in lines:
        text = line.rstrip("\n")
        if text.endswith("\\"):
            begun += text[:-1] + "\n"
        else:
            yield begun + text
            begun = ""
    if begun:
        yield begun.rstrip("\n")


def _typed() -> Iterator[str]:
    """Lines typed at a terminal, with editing and history where Python has them."""
    with suppress(ImportError):
        import readline  # noqa: F401  # `input` uses it
    while True:
        try:
            sys.stderr.flush()
            yield input("> ")
        except EOFError:
            say("")
            return
