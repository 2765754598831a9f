"""`q3edge export`: export of a checkpoint, float or quantized, as an ONNX artifact or for other programs."""

from __future__ import annotations

from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json, show_notices
from q3edge.cli.options.common import (
    MODEL,
    experts_option,
    experts_per_token_option,
    json_option,
    last_logits_option,
    output_option,
    overwrite_option,
)
from q3edge.formats import FLOAT, OTHER_FORMATS, ExpertOperators, OtherFormat
from q3edge.terminal import say


@click.command(short_help="Export a quantized or float model: the second half of build.")
@click.argument("source", metavar="QDIR|MODEL", type=MODEL)
@output_option
@click.option(
    "--format",
    "format_name",
    type=click.Choice((FLOAT,)),
    help="Export a float MODEL as it is, in float32; a QDIR carries its own format.",
)
@click.option(
    "--to",
    type=click.Choice(OTHER_FORMATS),
    help="Write the model for another program, with the same codes: gguf is for llama.cpp, mlx for mlx-lm, gptq for "
    "GPTQModel, compressed-tensors for vLLM.",
)
@last_logits_option
@experts_option
@experts_per_token_option
@overwrite_option
@json_option
def export(
    source: str,
    output: Path,
    format_name: str | None,
    to: OtherFormat | None,
    last_logits: bool,
    experts: ExpertOperators,
    experts_per_token: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export a quantized checkpoint (or a float MODEL) as an ONNX model, with a KV cache if it writes text.

    With --to, as a model for another program: DIR then holds its files (gguf: model.gguf) and q3edge.json.

    The model is not run: `q3edge validate DIR --reference MODEL` measures its accuracy.
    """
    manifest = q3edge.export(
        source,
        output,
        as_float=format_name == FLOAT,
        to=to,
        last_logits=last_logits,
        experts=experts,
        experts_per_token=experts_per_token,
        overwrite=overwrite,
    )
    show_notices(manifest.notices)
    if as_json:
        emit_json({"output": str(output), "metrics": manifest.metrics})
    else:
        size = manifest.metrics["model_bytes"] / 1e6
        following = "" if to else f"; next: q3edge validate {output} --reference MODEL"
        say(f"wrote {output}: {size:.1f} MB{following}")
