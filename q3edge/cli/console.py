"""What every verb shares: where output goes, how progress looks, and the common options.

Data goes to stdout, everything else to stderr; progress bars appear only on a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from q3edge.formats import CACHE_TYPES, CacheType
from q3edge.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console

    from q3edge.artifact import Notice
    from q3edge.pipeline.quantize.calibrate import Calibration
    from q3edge.quantization.recipe import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead of text.")
output_option = click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="Folder to write.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace DIR if q3edge wrote it before.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Threads for onnxruntime (default: the physical cores at hand).",
)


def recipe_options(command: Command) -> Command:
    """--group-size, --symmetric/--asymmetric, --recipe, --method and --kv, as `build_recipe` takes them."""
    for option in (
        click.option(
            "--kv",
            "kv_cache",
            type=click.Choice(CACHE_TYPES),
            help="How the context is kept: float32, or int8 in a quarter of the memory, faster where it is long "
            "(default: float32).",
        ),
        click.option("--recipe", "recipe_file", type=FILE, metavar="FILE", help="TOML recipe with rules per tensor."),
        click.option(
            "--symmetric/--asymmetric",
            default=None,
            help="Without or with a stored zero point per group (int4: asymmetric, int8: symmetric).",
        ),
        click.option("--group-size", type=int, metavar="N", help="Weights that share a scale: 16, 32, 64, 128, 256."),
        click.option(
            "--method",
            type=click.Choice(("gptq", "rtn")),
            help="gptq: calibrate on text (minutes to hours); rtn: round to nearest (seconds). Default: gptq for "
            "models over 50 M weights at 4 bits or fewer or as int8-dynamic, and wherever --calibration is given.",
        ),
    ):
        command = option(command)
    return command


def calibration_options(command: Command) -> Command:
    """The flags of calibration, from --calibration to --target-bpw, as `build_calibration` takes them."""
    for option in (
        click.option(
            "--target-bpw",
            type=click.FloatRange(min=0, min_open=True),
            metavar="BITS",
            help="As --target-size, in bits per weight of the whole model: 4.5.",
        ),
        click.option(
            "--target-size",
            metavar="SIZE",
            help="Choose every layer's format for the best accuracy in an ONNX model of this size: 350MB, 1.2GB.",
        ),
        click.option(
            "--tune", is_flag=True, help="Then train scales and norms on the float model's predictions (slow, better)."
        ),
        click.option(
            "--reconstruct",
            is_flag=True,
            help="Train each layer, once solved, towards what the float one gives (slower, more accurate).",
        ),
        click.option("--restart", is_flag=True, help="Forget the unfinished calibration of an earlier, other command."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of the choice among calibration text."),
        click.option("--seq-len", type=click.IntRange(16), metavar="L", help="Tokens per row (default: 512)."),
        click.option("--samples", type=click.IntRange(2), metavar="N", help="Calibration rows (default: 128)."),
        click.option(
            "--calibration",
            "calibration_texts",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="PATH",
            help="Text to calibrate on: txt, md, jsonl, csv, tsv, pdf, parquet, py, or a folder (default: built in).",
        ),
    ):
        command = option(command)
    return command


def build_calibration(
    calibration_texts: tuple[Path, ...],
    samples: int | None,
    seq_len: int | None,
    seed: int,
    restart: bool,
    reconstruct: bool,
    tune: bool,
    target_size: str | None,
    target_bpw: float | None,
) -> Calibration:
    """What the flags of `calibration_options` ask for."""
    from q3edge.pipeline.quantize.calibrate import SAMPLES, SEQ_LEN, Budget, Calibration

    budget = None
    if target_size is not None or target_bpw is not None:
        budget = Budget(None if target_size is None else _parse_size(target_size), target_bpw)
    return Calibration(
        calibration_texts,
        samples or SAMPLES,
        seq_len or SEQ_LEN,
        seed,
        reconstruct=reconstruct,
        tune=tune,
        restart=restart,
        budget=budget,
    )


def _parse_size(text: str) -> int:
    """Bytes of 350MB, 1.2GB or 90000000; units are decimal unless written with an i (MiB)."""
    from q3edge.errors import UsageError

    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmg])(i?)b?|b)?\s*", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"--target-size {text!r}: expected a size such as 350MB or 1.2GB")
    number, unit, binary = found.groups()
    power = " kmg".index(unit.lower()) if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def check_budget_flags(flags: Mapping[str, Any], *fixed: object) -> None:
    """UsageError: both targets, or one beside flags that fix the formats, given as `fixed`."""
    from q3edge.errors import UsageError

    targets = [flags["target_size"], flags["target_bpw"]]
    if all(target is not None for target in targets):
        raise UsageError("--target-size and --target-bpw say the same: give one")
    if any(target is not None for target in targets) and any(value is not None for value in fixed):
        raise UsageError(
            "a target chooses the formats itself: leave out --format, --group-size, --symmetric/--asymmetric, --recipe"
        )


def build_recipe(
    format_name: str | None,
    group_size: int | None,
    symmetric: bool | None,
    recipe_file: Path | None,
    method: str | None,
    kv_cache: CacheType | None,
) -> Recipe:
    """The recipe that flags or a file ask for; UsageError where both do."""
    from dataclasses import replace

    from q3edge.errors import UsageError
    from q3edge.quantization.recipe import Recipe

    if recipe_file is None:
        recipe = Recipe.for_format(format_name or "int4", group_size, symmetric)
    elif format_name is not None or group_size is not None or symmetric is not None:
        raise UsageError("--recipe decides the formats: leave out --format, --group-size and --symmetric/--asymmetric")
    else:
        recipe = Recipe.load(recipe_file)
    return replace(recipe, method=method or recipe.method, kv_cache=kv_cache or recipe.kv_cache)


def stderr_console() -> Console:
    """Rich on stderr (honours NO_COLOR)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line for the person watching, on stderr."""
    click.echo(text, err=True)


def show_notices(notices: tuple[Notice, ...]) -> None:
    """Everything that was approximated, repaired or skipped, one line each on stderr."""
    for notice in notices:
        say(f"note: {notice.detail} ({notice.count}x)" if notice.count > 1 else f"note: {notice.detail}")


def emit_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN is refused rather than printed."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


class TerminalProgress:
    """Rich bars with rate-based ETA on stderr, only where that is a terminal; lines on stderr everywhere."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """See q3edge.progress.Listener."""
        if not sys.stderr.isatty():
            yield lambda _count: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        bar = Progress(
            *columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=stderr_console()
        )
        with bar:
            handle = bar.add_task(label, total=total)
            yield lambda count: bar.advance(handle, count)

    def note(self, text: str) -> None:
        """See q3edge.progress.Listener."""
        say(text)
