"""`q3edge demo`: the whole flow on the embedded model, offline."""

from __future__ import annotations

from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import FOLDER, json_option, threads_option
from q3edge.defaults import DEMO_FOLDER, demo_format
from q3edge.plain_line import typed
from q3edge.terminal import say


@click.command(short_help="See the whole flow on a small embedded model, offline.")
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    default=DEMO_FOLDER,
    show_default=True,
    metavar="DIR",
    help="Folder for the models; those of an earlier demo are replaced.",
)
@click.option("--moe", is_flag=True, help="Take the embedded mixture of experts (24, of which a token takes 4).")
@click.option("--quick", is_flag=True, help="Ask a fifth of the questions: a first look.")
@threads_option
@json_option
def demo(output: Path, moe: bool, quick: bool, threads: int | None, as_json: bool) -> None:
    """Quantize, export, validate and run a small embedded Qwen3 as float, int8, int4 and int2.

    Needs no network. The table shows size and accuracy of each; int2 shows the damage of too few bits. With --moe
    int4-mixed, the default of a mixture of experts, stands in place of int4.
    """
    from q3edge.cli.tables.demo import DemoTable, demo_answers

    shown = demo_format(moe)
    on_row = None if as_json else DemoTable(click.echo, shown).add
    result = q3edge.demo(output, threads=threads, moe=moe, quick=quick, on_row=on_row)
    if as_json:
        emit_json(result.to_json())
        return
    say(f"{result.questions} held-out questions, greedy; brackets: 95 % confidence; {result.seconds:.0f} s in all\n")
    show(f"{demo_answers(result.answers, shown)}\n\n{result.verdict}")
    say(f'\nAsk one yourself:  q3edge run {typed(output / shown)} "{result.answers[0].question}"')
