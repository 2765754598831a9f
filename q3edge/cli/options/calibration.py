"""Options of calibration in `quantize`, `build` and `sweep`."""

from __future__ import annotations

import click

from q3edge.cli.options.common import PATH, number_option, together
from q3edge.defaults import SAMPLES, SEQ_LEN

text_options = together(
    click.option(
        "--calibration",
        type=PATH,
        multiple=True,
        metavar="PATH",
        help="Text to calibrate on: txt, md, jsonl, csv, tsv, pdf, parquet, py, or a folder (default: built in); "
        "or one npy of token ids.",
    ),
    number_option("--samples", "Calibration rows.", SAMPLES),
    number_option("--seq-len", "Tokens per row.", SEQ_LEN, metavar="L"),
)
calibration_options = together(
    text_options,
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice among calibration text."),
    click.option(
        "--restart", is_flag=True, help="Discard the unfinished calibration of an earlier, different command."
    ),
    click.option(
        "--reconstruct",
        is_flag=True,
        help="Train each layer, once solved, towards the output of the float one (slower, more accurate).",
    ),
    click.option(
        "--tune", is_flag=True, help="Then train scales and norms on the float model's predictions (slow, better)."
    ),
    click.option(
        "--target-size",
        metavar="SIZE",
        help="Choose every layer's format for the best accuracy in an ONNX model of this size: 350MB, 1.2GB; "
        "with `quantize --for gguf` in a GGUF file.",
    ),
    number_option("--target-bpw", "As --target-size, in bits per weight of the whole model: 4.5.", metavar="BITS"),
)
