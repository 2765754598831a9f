"""`Editor`: messages typed at a terminal, edited by prompt_toolkit."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History as EditorHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from q3edge.cli.talk.commands import completions
from q3edge.cli.talk.history import History
from q3edge.cli.talk.lines import CONTINUATION, PROMPT


class Editor:
    """Reader of messages of several lines, which shows them where answers do not go: on stderr, if that is a terminal.

    Enter sends, but behind a backslash it begins a line, as Alt-Enter does; pasted lines stay together.
    """

    def __init__(self, history: History) -> None:
        output = create_output(sys.stderr if sys.stderr.isatty() else sys.stdout)
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False  # the terminal's reply would get between what is typed meanwhile
        self._session: PromptSession[str] = PromptSession(
            history=_Kept(history),
            completer=_Commands(),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=lambda _width, _line, wrapped: "" if wrapped else CONTINUATION,
            enable_suspend=True,
            output=output,
        )

    def read(self) -> str:
        """Next message. EOFError: Ctrl-D. KeyboardInterrupt: Ctrl-C, and what was typed is dropped."""
        return self._session.prompt(PROMPT).rstrip("\n")


class _Kept(EditorHistory):
    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def load_history_strings(self) -> Iterable[str]:
        """Messages, the newest first."""
        return reversed(self._history.messages)

    def store_string(self, string: str) -> None:
        """Keep a message."""
        self._history.add(string)


class _Commands(Completer):
    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Commands, settings and files for what stands before the cursor."""
        begun, found = completions(document.text_before_cursor)
        for text in found:
            yield Completion(text, start_position=-len(begun))


def _keys() -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # and not searching

    @keys.add("enter", filter=typing)
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
