"""`q3edge sweep`: many formats of one model, built, measured and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from q3edge.cli.console import emit_json, json_option, output_option, say
from q3edge.cli.options.measuring import build_measuring, gate_options, measuring_options, no_speed_option


class _List(click.ParamType["tuple[str, ...]"]):
    name = "list"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """a,b,c -> (a, b, c); empty parts are left out."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


@click.command()
@click.argument("model")
@output_option
@click.option(
    "--formats",
    type=_List(),
    default=(),
    metavar="F,F",
    help="int8, int4, int4-fast or int2 (with -gN, -sym, -asym: int4-g64-sym), int8-dynamic, float; and as baselines "
    "torch-int8, nf4, fp4, bnb-int8.",
)
@click.option("--target-bpw", type=_List(), default=(), metavar="B,B", help="Budgets in bits per weight: 3.5,4,4.5.")
@click.option("--method", type=click.Choice(("gptq", "rtn")), help="As of `q3edge build`, for every format.")
@click.option(
    "--calibration",
    "texts",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Text to calibrate on (default: built in).",
)
@click.option("--samples", type=click.IntRange(2), metavar="N", help="Calibration rows (default: 128).")
@click.option("--seq-len", type=click.IntRange(16), metavar="L", help="Tokens per row (default: 512).")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="Models built at a time, each with its share of the threads and memory of its own.",
)
@gate_options
@no_speed_option
@measuring_options
@json_option
def sweep(
    model: str,
    output: Path,
    formats: tuple[str, ...],
    target_bpw: tuple[str, ...],
    method: str | None,
    texts: tuple[Path, ...],
    samples: int | None,
    seq_len: int | None,
    jobs: int,
    min_recovery: float,
    max_kl: float,
    as_json: bool,
    **measuring_flags: Any,
) -> None:
    """Build MODEL in many formats below DIR, measure each, and write DIR/report.html, .json and .md.

    The same command goes on where it was stopped; finished formats are not built again. A format that fails is listed
    with its reason and the others go on: the exit code is 0 if any could be judged, else 5.
    """
    from q3edge.cli.tables.report import report_table
    from q3edge.errors import ValidationError
    from q3edge.pipeline.quantize.calibrate import SAMPLES, SEQ_LEN, Calibration
    from q3edge.pipeline.sweep.sweep import run_sweep
    from q3edge.pipeline.sweep.variants import parse_variants
    from q3edge.report.gates import Gates

    asked = parse_variants(formats, target_bpw, method)
    chosen = texts or samples or seq_len
    calibration = Calibration(texts, samples or SAMPLES, seq_len or SEQ_LEN) if chosen else None
    result = run_sweep(
        output,
        asked,
        build_measuring(model, **measuring_flags),
        Gates(min_recovery, max_kl),
        calibration,
        jobs=jobs,
    )
    if as_json:
        emit_json({"output": str(output), "resumed": list(result.resumed), **result.report.to_json()})
    else:
        click.echo(report_table(result.report))
    say(f"wrote {output / 'report.html'}, .json and .md")
    if not result.report.variants:
        raise ValidationError(f"{output}: every format failed; the reasons are in report.html")
