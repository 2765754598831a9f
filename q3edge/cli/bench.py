"""`q3edge bench`: how fast an ONNX artifact is on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from q3edge.cli.console import FOLDER, emit_json, json_option, threads_option


class _Depths(click.ParamType[tuple[int, ...]]):
    name = "list"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """0,512,4096 -> (0, 512, 4096)."""
        if isinstance(value, tuple):
            return value
        try:
            depths = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers such as 0,512,4096", param, ctx)
        if min(depths) < 0:
            self.fail(f"{value!r}: a depth is 0 or more", param, ctx)
        return depths


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--prompt", type=click.IntRange(1), default=512, show_default=True, metavar="N", help="Prefilled tokens.")
@click.option("--new", type=click.IntRange(1), default=64, show_default=True, metavar="N", help="Tokens to decode.")
@click.option("--depth", "depths", type=_Depths(), metavar="N,N", help="Tokens of context before them (0,512,4096).")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Processes to time.")
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
