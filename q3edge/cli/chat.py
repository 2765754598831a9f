"""`q3edge chat`: a conversation in the terminal, or over pipes, a message a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from q3edge.cli.answers import open_model, settings_given
from q3edge.cli.cache_file import CacheFile
from q3edge.cli.options.answering import answering_options, cache_file_options
from q3edge.cli.options.common import MODEL_FOLDER
from q3edge.cli.standard_streams import is_terminal
from q3edge.errors import Q3EdgeError, UsageError
from q3edge.terminal import say

if TYPE_CHECKING:
    from q3edge.cli.talk.conversation import Conversation
    from q3edge.cli.talk.lines import Reader


@click.command(short_help="Hold a conversation.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@answering_options
@cache_file_options
@click.option(
    "--no-history",
    is_flag=True,
    envvar="Q3EDGE_NO_HISTORY",
    help="Keep nothing of what is typed for later conversations (or set Q3EDGE_NO_HISTORY=1).",
)
@click.option("--json", "as_json", is_flag=True, help="Over pipes: print one line of JSON for each answer.")
def chat(
    folder: Path,
    system: str | None,
    thinking: bool | None,
    chat_template: Path | None,
    draft: Path | None,
    no_speculate: bool,
    offload: bool | None,
    threads: int | None,
    kernels: str | None,
    cache_file: Path | None,
    cache_file_ro: bool,
    no_history: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Hold a conversation with the ONNX model in DIR, a folder or the id of one on the hub.

    A line is a message; one that ends in a backslash goes on in the next. /help lists the commands that a line may be
    instead; /exit or the end of the input ends. Answers go to stdout, all else to stderr.
    """
    from q3edge.cli.talk.conversation import Conversation
    from q3edge.cli.talk.history import History, history_file
    from q3edge.cli.talk.lines import piped, typed

    terminal = is_terminal()
    if terminal and as_json:
        raise UsageError("--json is for messages that are piped in: q3edge chat DIR --json < FILE")
    with open_model(
        folder,
        threads=threads,
        kernels=kernels,
        draft=draft,
        no_speculate=no_speculate,
        chat_template=chat_template,
        offload=offload,
    ) as model:
        kept = CacheFile(model, cache_file, read_only=cache_file_ro)
        talk = Conversation(model, system, thinking, settings_given(flags), as_json=as_json)
        if terminal:
            _talk_at_terminal(talk, typed(History(None if no_history else history_file())))
        else:
            _talk(talk, piped())
        kept.save()


def _talk(talk: Conversation, reader: Reader) -> None:
    """Take messages to the end, or to the first error."""
    from q3edge.cli.talk.commands import ConversationOver

    try:
        while True:
            _take(talk, reader.read())
    except (EOFError, ConversationOver):
        return


def _talk_at_terminal(talk: Conversation, reader: Reader) -> None:
    """Take messages to the end; an error, or Ctrl-C, ends an answer alone."""
    from q3edge.cli.talk.commands import ConversationOver
    from q3edge.cli.talk.conversation import StoppedError
    from q3edge.cli.talk.interruptions import Interruptions, terminal_restored

    say("[/help lists commands and keys, Ctrl-D ends]")
    with terminal_restored(), Interruptions() as interruptions:
        while True:
            try:
                with interruptions.allowed():
                    message = reader.read()
            except KeyboardInterrupt:
                say("[Ctrl-D or /exit ends the conversation]")
                continue
            except EOFError:
                return
            try:
                with interruptions.allowed():
                    _take(talk, message)
            except ConversationOver:
                return
            except Q3EdgeError as error:
                say(f"q3edge: {error}")
            except StoppedError as stopped:
                kept = "what came of the answer stays in the conversation"
                say(f"[stopped: {kept if stopped.kept else 'the message is forgotten'}]")
            except KeyboardInterrupt:
                say("[stopped]")


def _take(talk: Conversation, message: str) -> None:
    """Follow a command, or answer a message; errors are those of either."""
    from q3edge.cli.talk.commands import command_in

    if found := command_in(message):
        command, argument = found
        command.obey(talk, argument)
    elif message.strip():
        talk.answer(message)
