"""`q3edge quantize`: float checkpoint in, quantized checkpoint out."""

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
)
from q3edge.formats import FORMATS, CacheType


@click.command()
@click.argument("model")
@output_option
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="Weight format (default: int4).")
@recipe_options
@calibration_options
@overwrite_option
@json_option
def quantize(
    model: str,
    output: Path,
    format_name: str | None,
    group_size: int | None,
    symmetric: bool | None,
    recipe_file: Path | None,
    method: str | None,
    kv_cache: CacheType | None,
    overwrite: bool,
    as_json: bool,
    **calibration_flags: Any,
) -> None:
    """Quantize the weights of MODEL (a folder or a hub id) into DIR.

    DIR is a checkpoint in the compressed-tensors layout, which transformers reads too.
    """
    check_budget_flags(calibration_flags, format_name, group_size, symmetric, recipe_file)
    recipe = build_recipe(format_name, group_size, symmetric, recipe_file, method, kv_cache)
    from q3edge.pipeline.quantize.quantize import quantize_checkpoint

    manifest = quantize_checkpoint(
        model,
        output,
        recipe,
        build_calibration(**calibration_flags),
        overwrite=overwrite,
    )
    show_notices(manifest.notices)
    if as_json:
        emit_json({"output": str(output), "metrics": manifest.metrics})
    else:
        size, bits = (manifest.metrics[name] for name in ("weight_bytes", "bits_per_weight"))
        say(f"wrote {output}: {size / 1e6:.1f} MB of weights once exported, {bits:.2f} bits each")
