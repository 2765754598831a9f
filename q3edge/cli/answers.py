"""What `run` and `chat` share: opening the model, and showing an answer: its text on stdout, all else on stderr."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

import q3edge
from q3edge.cli.console import show_notices
from q3edge.errors import UsageError
from q3edge.plain_line import counted
from q3edge.runtime.generation.setting_table import MAX_FORMAT_LENGTH, SETTINGS
from q3edge.terminal import has_styles, say, shown_while_waiting

if TYPE_CHECKING:
    from q3edge.runtime.completion import Completion, Piece, Stream
    from q3edge.runtime.model import Model


_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # by a terminal: control characters but tab and newline


def settings_given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the flags give, by name; the others are the checkpoint's. InputError: a file cannot be read."""
    given = {name: value for name in SETTINGS if (value := flags.get(name)) not in (None, ())}
    return {name: _text_of(value) if SETTINGS[name].from_file else value for name, value in given.items()}


def _text_of(path: Path) -> str:
    from q3edge.storage.text_files import read_utf8

    return read_utf8(path, most=4 * MAX_FORMAT_LENGTH)


def open_model(
    folder: Path,
    *,
    threads: int | None,
    kernels: str | None,
    draft: Path | None,
    no_speculate: bool,
    chat_template: Path | None,
    offload: bool | None,
) -> Model:
    """Open the model as the flags say; its notices go to stderr. UsageError: --draft beside --no-speculate."""
    if draft is not None and no_speculate:
        raise UsageError("--draft proposes draft tokens and --no-speculate forbids them: give one")
    model = q3edge.load(
        folder,
        threads=threads,
        kernels=kernels,
        speculate=not no_speculate,
        draft=draft,
        chat_template=chat_template,
        offload=offload,
    )
    show_notices(model.notices)
    return model


def awaited(stream: Stream) -> Iterator[Piece]:
    """Pieces of a stream; until the first, a terminal shows how far the prompt has been read."""
    with shown_while_waiting(lambda: "reading the prompt: {} of {} tokens".format(*stream.prompt_progress)):
        first = next(stream, None)
    if first is not None:
        yield first
        yield from stream


def show_pieces(pieces: Iterable[Piece]) -> None:
    """Write the thinking to stderr, dimmed, and the answer, which starts on a line of its own, to stdout.

    What a terminal would obey (escapes, backspaces) is made visible on one.
    """
    after_thinking, dimmed = False, has_styles()
    for piece in pieces:
        if piece.thinking:
            if not after_thinking and not dimmed and sys.stderr.isatty():
                click.echo("(thinking)", err=True)
            text = _visible(piece.text, sys.stderr)
            click.echo(click.style(text, dim=True) if dimmed else text, nl=False, err=True)
        elif after_thinking:
            click.echo(err=True)
        after_thinking = piece.thinking
        if not piece.thinking:
            click.echo(_visible(piece.text, sys.stdout), nl=False)


def _visible(text: str, stream: TextIO) -> str:
    if not stream.isatty():
        return text
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say_statistics(completion: Completion) -> None:
    """Say how many tokens were read and written, and how fast."""
    stats = completion.stats
    cached = f", {stats.reused_tokens} of them cached" if stats.reused_tokens else ""
    drafted = ""
    if stats.drafted_tokens:
        drafted = f", {stats.accepted_tokens} of {stats.drafted_tokens} draft tokens accepted"
    say(
        f"[{counted(stats.prompt_tokens, 'prompt token')}{cached} in {stats.prefill_seconds:.2f} s, {stats.new_tokens} "
        f"new at {stats.decode_tokens_per_second:.1f} tokens/s{drafted}, ended by {stats.finish_reason}]"
    )


def end_of_answer(completion: Completion) -> None:
    """Show what is out of the ordinary about an answer. UsageError: thinking is all that there is."""
    from q3edge.runtime.answer_text import CUT_IN_THINKING

    show_notices(notice for notice in completion.notices if notice.code != CUT_IN_THINKING)
    for notice in completion.notices:
        if notice.code == CUT_IN_THINKING:
            raise UsageError(f"no answer: {notice.detail} (--max-new-tokens, --thinking-budget, --no-think)")
