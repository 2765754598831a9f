"""`q3edge quantize`: quantization of a float checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.console import emit_json, show_notices
from q3edge.cli.options.calibration import calibration_options
from q3edge.cli.options.common import (
    MODEL,
    adapter_option,
    json_option,
    output_option,
    overwrite_option,
    scheduler_option,
)
from q3edge.cli.options.recipe import recipe_options, take_recipe
from q3edge.formats import FORMATS, PROGRAMS
from q3edge.plain_line import typed
from q3edge.terminal import say


@click.command(short_help="Quantize the weights of a model: the first half of build.")
@click.argument("model", type=MODEL)
@adapter_option
@output_option
@recipe_options(FORMATS)
@calibration_options
@click.option(
    "--for",
    "for_program",
    type=click.Choice(tuple(PROGRAMS)),
    help="Choose formats that another program has: gguf, for `export --to gguf` (blocks of 32 in 4 or 8 bits); vllm, "
    "for `export --to compressed-tensors` (4 bits in symmetric groups of 32, embedding and head float).",
)
@overwrite_option
@scheduler_option
@json_option
def quantize(model: str, output: Path, as_json: bool, **options: Any) -> None:
    """Quantize the weights of MODEL (a folder or a hub id) into DIR.

    DIR is a checkpoint in the compressed-tensors layout, which transformers reads too.
    """
    manifest = q3edge.quantize(model, output, take_recipe(options), **options)
    show_notices(manifest.notices)
    if as_json:
        emit_json({"output": str(output), "metrics": manifest.metrics})
    elif (program := manifest.metrics.get("exported_for")) is not None:
        size = manifest.metrics.get("exported_bytes")
        export = f"q3edge export {typed(output)} -o DIR --to {PROGRAMS[program]}"
        say(f"wrote {output}; next: {export}" + (f" (a file of {size / 1e6:.1f} MB)" if size else ""))
    else:
        size, bits = (manifest.metrics[name] for name in ("weight_bytes", "bits_per_weight"))
        say(f"wrote {output}: {size / 1e6:.1f} MB of weights once exported, {bits:.2f} bits each")
