"""`q3edge bench`: how fast an ONNX artifact is on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from q3edge.cli.console import FOLDER, emit_json, json_option, threads_option
from q3edge.defaults import BENCH_DEPTHS, BENCH_NEW, BENCH_PROMPT, BENCH_REPEATS

Command = TypeVar("Command", bound=Callable[..., Any])
_EXAMPLE = ",".join(map(str, BENCH_DEPTHS))


class _Depths(click.ParamType[tuple[int, ...]]):
    name = "list"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """0,512,4096 -> (0, 512, 4096)."""
        if isinstance(value, tuple):
            return value
        try:
            depths = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers such as {_EXAMPLE}", param, ctx)
        if min(depths) < 0:
            self.fail(f"{value!r}: a depth is 0 or more", param, ctx)
        return depths


def _count(name: str, default: int, text: str) -> Callable[[Command], Command]:
    return click.option(name, type=click.IntRange(1), default=default, show_default=True, metavar="N", help=text)


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@_count("--prompt", BENCH_PROMPT, "Prefilled tokens.")
@_count("--new", BENCH_NEW, "Tokens to decode.")
@click.option("--depth", "depths", type=_Depths(), metavar="N,N", help=f"Tokens of context before them ({_EXAMPLE}).")
@_count("--repeats", BENCH_REPEATS, "Processes to time.")
@threads_option
@json_option
def bench(
    folder: Path,
    prompt: int,
    new: int,
    depths: tuple[int, ...] | None,
    repeats: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the ONNX model in DIR: tokens per second, time to the first token, memory.

    Each repeat is a process of its own. Medians, with the smallest and largest value in brackets. Close other
    programs first.
    """
    from q3edge.cli.tables.tables import bench_table
    from q3edge.pipeline.measure.bench import bench_artifact

    result = bench_artifact(folder, prompt=prompt, new=new, depths=depths, threads=threads, repeats=repeats)
    if as_json:
        emit_json(result.to_json())
    else:
        click.echo(bench_table(result))
