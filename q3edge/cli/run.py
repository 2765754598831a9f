"""`q3edge run`: one prompt, one answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import q3edge
from q3edge.cli.console import emit_json, say
from q3edge.cli.options.common import FOLDER, PATH, json_option, threads_option

if TYPE_CHECKING:
    from q3edge.runtime.completion import Piece


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.argument("prompt")
@click.option("--max-new-tokens", type=int, metavar="N", help="Longest answer (default: the model's own limit).")
@click.option("--temperature", type=float, metavar="T", help="0: always the most likely token (default: the model's).")
@click.option(
    "--top-p", type=float, metavar="P", help="Sample from the most likely tokens with this total probability."
)
@click.option("--top-k", type=int, metavar="K", help="Sample from the K most likely tokens; 0: from all.")
@click.option("--seed", type=int, metavar="S", help="The same seed gives the same text (default: random).")
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without the chat template.")
@click.option("--think/--no-think", "thinking", default=None, help="Let the model reason first (default: its own).")
@click.option(
    "--draft",
    type=FOLDER,
    metavar="DIR",
    help="A smaller model of the same family to propose draft tokens; this one checks them. The text stays as good.",
)
@click.option(
    "--no-speculate", is_flag=True, help="Compute every token by itself: no draft tokens from what the text repeats."
)
@threads_option
@json_option
def run(
    folder: Path,
    prompt: str,
    raw: bool,
    thinking: bool | None,
    draft: Path | None,
    no_speculate: bool,
    threads: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Answer PROMPT with the ONNX model in DIR, a folder or the id of one on the hub.

    The answer streams to stdout; thinking and statistics go to stderr. PROMPT "-" reads standard input.
    """
    from q3edge.errors import UsageError

    if raw and thinking is not None:
        raise UsageError("--raw has no chat template, so --think/--no-think does not apply")
    if draft is not None and no_speculate:
        raise UsageError("--draft proposes draft tokens and --no-speculate forbids them: give one")
    if not os.path.exists(folder) and os.path.isdir(prompt):
        raise UsageError(f"{folder}: not found; the folder comes first: q3edge run {prompt} PROMPT")
    text = sys.stdin.read() if prompt == "-" else prompt

    with q3edge.load(folder, threads=threads, speculate=not no_speculate, draft=draft) as model:
        stream = model.stream_raw(text, **flags) if raw else model.stream(text, thinking=thinking, **flags)
        if not as_json:
            _show(stream)
        completion = stream.finish()
    if as_json:
        emit_json(completion.to_json())
        return
    click.echo()
    stats = completion.stats
    cached = f", {stats.reused_tokens} of them cached" if stats.reused_tokens else ""
    drafted = ""
    if stats.drafted_tokens:
        drafted = f", {stats.accepted_tokens} of {stats.drafted_tokens} draft tokens accepted"
    say(
        f"[{stats.prompt_tokens} prompt tokens{cached} in {stats.prefill_seconds:.2f} s, {stats.new_tokens} new at "
        f"{stats.decode_tokens_per_second:.1f} tokens/s{drafted}, ended by {stats.finish_reason}]"
    )


def _show(pieces: Iterable[Piece]) -> None:
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
