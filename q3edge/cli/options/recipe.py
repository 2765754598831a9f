"""Options of `quantize` and `build` for the storage of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from q3edge.cli.options.common import FILE, Command, together
from q3edge.defaults import FORMAT
from q3edge.errors import UsageError
from q3edge.formats import CACHE_TYPES
from q3edge.library.arguments import METHODS

method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    help="gptq: calibrate on text (minutes to hours); rtn: round to nearest (seconds); keep: the codes of a model that "
    "another tool quantized. Default: keep where there are such codes and no format is given; else gptq for models "
    "over 50 M weights at 4 bits or fewer or as int8-dynamic, and wherever --calibration is given, or another "
    "--samples or --seq-len than the default; else rtn.",
)


def recipe_options(formats: Sequence[str]) -> Callable[[Command], Command]:
    """Make a decorator that adds the flags --format to --kv; `formats`: the choices of --format."""
    return together(
        click.option("--format", "format_name", type=click.Choice(formats), help=f"Weight format (default: {FORMAT})."),
        method_option,
        click.option("--group-size", type=int, metavar="N", help="Weights that share a scale: 16, 32, 64, 128, 256."),
        click.option(
            "--symmetric/--asymmetric",
            default=None,
            help="Without or with a stored zero point per group (int4: asymmetric, int8: symmetric).",
        ),
        click.option("--recipe", "recipe_file", type=FILE, metavar="FILE", help="TOML recipe with rules per tensor."),
        click.option(
            "--kv",
            "kv_cache",
            type=click.Choice(CACHE_TYPES),
            help="Type of the KV cache: float32, or int8 in a quarter of the memory, faster with long contexts "
            "(default: float32).",
        ),
    )


def take_recipe(options: dict[str, Any]) -> str | Path | None:
    """Remove --format and --recipe from the options; returns the function's `recipe`. UsageError: both are given."""
    from q3edge.library.requests import RECIPE_DECIDES

    format_name: str | None = options.pop("format_name")
    recipe_file: Path | None = options.pop("recipe_file")
    if format_name is not None and recipe_file is not None:
        raise UsageError(RECIPE_DECIDES)
    return format_name if recipe_file is None else recipe_file
