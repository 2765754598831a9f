"""`q3edge run`: one prompt, one answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from q3edge.cli.answers import awaited, end_of_answer, open_model, say_statistics, settings_given, show_pieces
from q3edge.cli.cache_file import CacheFile
from q3edge.cli.console import emit_json
from q3edge.cli.options.answering import answering_options, cache_file_options
from q3edge.cli.options.common import MODEL_FOLDER, json_option
from q3edge.cli.standard_streams import is_terminal, read_stdin
from q3edge.errors import UsageError
from q3edge.plain_line import typed

if TYPE_CHECKING:
    from q3edge.runtime.text.messages import Message


class _PromptCommand(click.Command):
    """Command whose last argument is a text, which may begin with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; unknown options and surplus words may be a prompt's, so the error says how that has to be written."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if "--" in args or error.possibilities:  # click's own hint is enough then
                raise
            hint = "a prompt that begins with a dash stands behind --, at the end: q3edge run DIR -- '-5'"
            raise click.UsageError(f"{error.format_message()} ({hint})", ctx) from None
        except click.UsageError as error:
            if "extra argument" not in error.format_message():
                raise
            hint = "a prompt of several words stands in quotes: q3edge run DIR 'Why is the sky blue?'"
            raise click.UsageError(f"{error.format_message()} ({hint})", ctx) from None


@click.command(cls=_PromptCommand, short_help="Answer one prompt.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without the chat template.")
@answering_options
@cache_file_options
@json_option
def run(
    folder: Path,
    prompt: str | None,
    raw: bool,
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
    as_json: bool,
    **flags: Any,
) -> None:
    """Answer PROMPT with the ONNX model in DIR, a folder or the id of one on the hub.

    The answer streams to stdout; thinking and statistics go to stderr. Without PROMPT, or where it is "-", standard
    input is read. A PROMPT that begins with a dash stands behind "--". `q3edge chat` holds a conversation.
    """
    if raw and thinking is not None:
        raise UsageError("--raw has no chat template, so --think/--no-think does not apply")
    if raw and system is not None:
        raise UsageError("--raw has no chat template, so --system does not apply: write it into PROMPT")
    if raw and chat_template is not None:
        raise UsageError("--raw uses no chat template, so --chat-template does not apply")
    if prompt is not None and not os.path.exists(folder) and os.path.isdir(prompt):
        raise UsageError(f"{folder}: not found; the folder comes first: q3edge run {typed(prompt)} PROMPT")
    if prompt is None and is_terminal():
        raise UsageError(
            f'no prompt: q3edge run {typed(folder)} "Why is the sky blue?", or q3edge chat {typed(folder)} to talk '
            "to it"
        )
    text = prompt if prompt not in (None, "-") else _from_stdin(raw)
    settings = settings_given(flags)

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
        if raw:
            stream = model.stream_raw(text, **settings)
        else:
            messages: list[Message] = [{"role": "user", "content": text}]
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
            stream = model.stream(messages, thinking=thinking, **settings)
        if not as_json:
            show_pieces(awaited(stream))
        completion = stream.finish()
        if as_json:
            emit_json(completion.to_json())
        else:
            click.echo()
            say_statistics(completion)
        kept.save()
    end_of_answer(completion)


def _from_stdin(raw: bool) -> str:
    text = read_stdin()
    if not text.strip():
        raise UsageError('standard input is empty; give a prompt there, or as in q3edge run DIR "Why is the sky blue?"')
    return text if raw else text.removesuffix("\n")  # which `echo` adds
