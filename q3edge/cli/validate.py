"""`q3edge validate`: how far an ONNX artifact is from the float model."""

from __future__ import annotations

from pathlib import Path

import click

from q3edge.cli.console import FILE, FOLDER, emit_json, json_option, threads_option
from q3edge.defaults import MAX_TOKENS

text_option = click.option(
    "--text", "texts", type=FILE, multiple=True, metavar="FILE", help="UTF-8 text to judge on (default: built in)."
)
max_kl_option = click.option(
    "--max-kl", type=click.FloatRange(0), metavar="NATS", help="Exit with 5 if the mean KL on the text is above this."
)
max_tokens_option = click.option(
    "--max-tokens",
    type=click.IntRange(32),
    metavar="N",
    default=MAX_TOKENS,
    show_default=True,
    help="Tokens to judge on, at most.",
)


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--reference", required=True, metavar="MODEL", help="The float checkpoint: a folder or a hub id.")
@text_option
@max_tokens_option
@max_kl_option
@threads_option
@json_option
def validate(
    folder: Path,
    reference: str,
    texts: tuple[Path, ...],
    max_tokens: int,
    max_kl: float | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare the ONNX model in DIR with the float MODEL it came from.

    Reports the KL divergence in nats, agreement on the likeliest token, perplexity and more, each with a 95 %
    confidence interval, and how much of it comes from int8 activations. DIR is not changed.
    """
    from q3edge.cli.tables.tables import validation_table
    from q3edge.evaluation.validation.results import require_passed
    from q3edge.pipeline.measure.validate import validate_against

    report = validate_against(folder, reference, texts, max_tokens=max_tokens, max_kl=max_kl, threads=threads)
    if as_json:
        emit_json(report.to_json())
    else:
        click.echo(validation_table(report))
    require_passed(str(folder), report.checks)
