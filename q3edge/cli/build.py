"""`q3edge build`: quantize + export + validate in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from q3edge.cli.console import (
    build_calibration,
    build_recipe,
    calibration_options,
    check_budget_flags,
    emit_json,
    json_option,
    output_option,
    overwrite_option,
    recipe_options,
    say,
    show_notices,
    threads_option,
)
from q3edge.cli.validate import max_kl_option, max_tokens_option, text_option
from q3edge.formats import FLOAT, FORMATS, CacheType


@click.command()
@click.argument("model")
@output_option
@click.option("--format", "format_name", type=click.Choice((*FORMATS, FLOAT)), help="Weight format (default: int4).")
@recipe_options
@calibration_options
@text_option
@max_tokens_option
@max_kl_option
@threads_option
@overwrite_option
@json_option
def build(
    model: str,
    output: Path,
    format_name: str | None,
    group_size: int | None,
    symmetric: bool | None,
    recipe_file: Path | None,
    method: str | None,
    kv_cache: CacheType | None,
    texts: tuple[Path, ...],
    max_tokens: int,
    max_kl: float | None,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
    **calibration_flags: Any,
) -> None:
    """Turn MODEL (a folder or a hub id) into a verified ONNX model in DIR.

    Quantizes, exports and validates; DIR appears only if every step succeeds and the checks pass.
    """
    from q3edge.errors import UsageError

    asked = (group_size, symmetric, recipe_file, method, kv_cache, calibration_flags["calibration_texts"] or None)
    trained = calibration_flags["reconstruct"] or calibration_flags["tune"]
    if format_name == FLOAT and (any(flag is not None for flag in asked) or trained):
        raise UsageError(
            "--format float is not quantized: leave out --recipe, --group-size, --symmetric, --method, --kv, "
            "--calibration, --reconstruct and --tune"
        )
    check_budget_flags(calibration_flags, format_name, group_size, symmetric, recipe_file)
    recipe = (
        None
        if format_name == FLOAT
        else build_recipe(format_name, group_size, symmetric, recipe_file, method, kv_cache)
    )
    from q3edge.cli.tables.tables import validation_table
    from q3edge.pipeline.build import build_artifact

    built = build_artifact(
        model,
        output,
        recipe,
        build_calibration(**calibration_flags),
        texts=texts,
        max_tokens=max_tokens,
        max_kl=max_kl,
        threads=threads,
        overwrite=overwrite,
    )
    show_notices(built.manifest.notices)
    if as_json:
        emit_json({"output": str(output), "metrics": built.manifest.metrics})
        return
    click.echo(validation_table(built.report))
    say(f'wrote {output}: {built.manifest.metrics["model_bytes"] / 1e6:.1f} MB; try: q3edge run {output} "Hello"')
