"""`q3edge eval`: what of the reference's knowledge, maths, code and languages an ONNX artifact keeps."""

from __future__ import annotations

from pathlib import Path

import click

from q3edge.cli.console import (
    FILE,
    FOLDER,
    TerminalProgress,
    emit_json,
    json_option,
    show_notices,
    threads_option,
)
from q3edge.cli.measuring_options import allow_code_option, build_asking, generate_option


@click.command("eval")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--reference",
    required=True,
    metavar="MODEL",
    help="The float checkpoint, a folder or a hub id; or the folder of another ONNX model.",
)
@click.option(
    "--suite",
    "suite_files",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Questions or text: jsonl, tsv, csv, txt, or a toml that describes such files (default: built in).",
)
@click.option("--areas", metavar="A,B", help="Only items of these areas: knowledge,math,code,multilingual,safety ...")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Of each suite at most N questions, and N windows of text."
)
@generate_option
@allow_code_option
@click.option("--no-cache", is_flag=True, help="Neither use nor keep what evaluations leave in the cache.")
@threads_option
@json_option
def evaluate(
    folder: Path,
    reference: str,
    suite_files: tuple[Path, ...],
    areas: str | None,
    limit: int | None,
    generate: int | None,
    allow_code: bool,
    no_cache: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare the ONNX model in DIR with MODEL on questions, programs and texts, area by area.

    Both models read every item with its right answer; with --generate they answer in their own words too. Reports how
    much of the reference's score is kept, in percent, with 95 % confidence intervals, and where the two differ most.
    Killed, it goes on where it stopped. Exit code 5: the artifact looks broken. DIR is not changed.
    """
    from q3edge.cli.scorecard_table import scorecard_table
    from q3edge.evaluation.suite_files import read_suites
    from q3edge.pipeline.evaluate import evaluate as run
    from q3edge.pipeline.evaluate import require_sound

    scorecard = run(
        folder,
        reference,
        read_suites(suite_files) if suite_files else None,
        areas=None if areas is None else [area.strip() for area in areas.split(",")],
        limit=limit,
        asking=build_asking(generate, allow_code),
        threads=threads,
        use_cache=not no_cache,
        progress=TerminalProgress(),
    )
    show_notices(scorecard.notices)
    if as_json:
        emit_json(scorecard.to_json())
    else:
        click.echo(scorecard_table(scorecard))
    require_sound(folder, scorecard)
