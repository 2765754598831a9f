"""What `run` and `chat` share: opening the model, and showing an answer: its text on stdout, all else on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import q3edge
from q3edge.cli.console import show_notices
from q3edge.errors import UsageError
from q3edge.runtime.generation.setting_table import SETTINGS

if TYPE_CHECKING:
    from q3edge.runtime.completion import Completion, Piece
    from q3edge.runtime.model import Model


def settings_given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the flags give, by name; the others are the checkpoint's."""
    return {name: value for name in SETTINGS if (value := flags.get(name)) not in (None, ())}


def open_model(
    folder: Path, *, threads: int | None, draft: Path | None, no_speculate: bool, chat_template: Path | None
) -> Model:
    """Open the model as the flags say; its notices go to stderr. UsageError: --draft beside --no-speculate."""
    if draft is not None and no_speculate:
        raise UsageError("--draft proposes draft tokens and --no-speculate forbids them: give one")
    model = q3edge.load(folder, threads=threads, speculate=not no_speculate, draft=draft, chat_template=chat_template)
    show_notices(model.notices)
    return model


def show_pieces(pieces: Iterable[Piece]) -> None:
    """Write the thinking to stderr, dimmed, and the answer, which starts on a line of its own, to stdout."""
    after_thinking = False
    for piece in pieces:
        if piece.thinking:
            click.secho(piece.text, nl=False, err=True, dim="NO_COLOR" not in os.environ or None)
        elif after_thinking:
            click.echo(err=True)
        after_thinking = piece.thinking
        if not piece.thinking:
            click.echo(piece.text, nl=False)


def end_of_answer(completion: Completion) -> None:
    """Show what is out of the ordinary about an answer. UsageError: thinking is all that there is."""
    from q3edge.runtime.answer_text import CUT_IN_THINKING

    show_notices(notice for notice in completion.notices if notice.code != CUT_IN_THINKING)
    for notice in completion.notices:
        if notice.code == CUT_IN_THINKING:
            raise UsageError(f"no answer: {notice.detail} (--max-new-tokens, --thinking-budget, --no-think)")
