"""Arguments of the public functions -> options of the pipelines, with every check on their combinations."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from q3edge.defaults import FORMAT
from q3edge.errors import UsageError
from q3edge.formats import FLOAT, CacheType

if TYPE_CHECKING:
    from q3edge.evaluation.suites.suite import Suite
    from q3edge.pipeline.measure.measurement import AnswerOptions, MeasurementOptions
    from q3edge.pipeline.quantize.calibrate import Budget, CalibrationOptions
    from q3edge.quantization.recipe import Recipe

PathLike = str | Path
PathLikes = PathLike | Sequence[PathLike]
Method = Literal["gptq", "rtn"]

RECIPE_DECIDES = "--recipe decides the formats: leave out --format, --group-size and --symmetric/--asymmetric"


def paths(given: PathLikes) -> tuple[Path, ...]:
    """Make a tuple of one path or several."""
    return (Path(given),) if isinstance(given, str | os.PathLike) else tuple(map(Path, given))


def artifact_at(folder: PathLike) -> Path:
    """Find the folder of an ONNX model: itself, or that of the hub's repository with this id."""
    if os.path.exists(folder):
        return Path(folder)
    from q3edge.pipeline.sharing import resolve_artifact

    return resolve_artifact(folder)


def words(given: str | Sequence[str]) -> tuple[str, ...]:
    """Make a tuple of one str or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def recipe_for(
    recipe: Recipe | str | Path | None,
    group_size: int | None,
    symmetric: bool | None,
    method: Method | None,
    kv_cache: CacheType | None,
) -> Recipe:
    """Make the recipe asked for; a str without a suffix names a format. UsageError: options that a file decides."""
    from dataclasses import replace

    from q3edge.quantization.recipe import Recipe

    if recipe is None or (isinstance(recipe, str) and not Path(recipe).suffix):
        found = Recipe.for_format(recipe or FORMAT, group_size, symmetric)
    elif group_size is not None or symmetric is not None:
        raise UsageError(RECIPE_DECIDES)
    else:
        found = recipe if isinstance(recipe, Recipe) else Recipe.load(Path(recipe))
    return replace(found, method=method or found.method, kv_cache=kv_cache or found.kv_cache)


def refuse_for_float(**given: object) -> None:
    """Raise UsageError if an option for quantized weights is given (is not None, False or empty)."""
    if any(value not in (None, False, ()) for value in given.values()):
        raise UsageError(
            f"--format {FLOAT} is not quantized: leave out --group-size, --symmetric, --method, --kv, --calibration, "
            "--reconstruct and --tune"
        )


def budget_for(target_size: str | int | None, target_bpw: float | None, *fixed: object) -> Budget | None:
    """Make the budget asked for. UsageError: both targets, or one beside options that fix the formats (not None)."""
    from q3edge.pipeline.quantize.calibrate import Budget

    if target_size is None and target_bpw is None:
        return None
    if target_size is not None and target_bpw is not None:
        raise UsageError("--target-size and --target-bpw say the same: give one")
    if any(value is not None for value in fixed):
        raise UsageError(
            "a target chooses the formats itself: leave out --format, --group-size, --symmetric/--asymmetric, --recipe"
        )
    return Budget(None if target_size is None else parse_size(target_size), target_bpw)


def calibration_for(
    calibration: PathLikes,
    samples: int,
    seq_len: int,
    seed: int = 0,
    *,
    reconstruct: bool = False,
    tune: bool = False,
    restart: bool = False,
    budget: Budget | None = None,
) -> CalibrationOptions:
    """Make the calibration options asked for. InputError, ResourceError: those of `require_texts`."""
    from q3edge.pipeline.quantize.calibrate import CalibrationOptions, require_texts

    texts = paths(calibration)
    require_texts(texts)
    return CalibrationOptions(
        texts, samples, seq_len, seed,
        reconstruct=reconstruct, tune=tune, restart=restart, budget=budget,
    )  # fmt: skip


def parse_size(size: str | int) -> int:
    """Parse a size in bytes: 350MB, 1.2GB or 90000000; units are decimal unless written with an i (MiB)."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmg])(i?)b?|b)?\s*", str(size), re.IGNORECASE)
    if found is None:
        raise UsageError(f"--target-size {size!r}: expected a size such as 350MB or 1.2GB")
    number, unit, binary = found.groups()
    power = " kmg".index(unit.lower()) if unit else 0
    found_bytes = float(number) * (1024 if binary else 1000) ** power
    if math.isinf(found_bytes):
        raise UsageError(f"--target-size {str(size)[:20]}...: expected a finite size such as 350MB or 1.2GB")
    return int(found_bytes)


def measuring_for(
    reference: PathLike | None,
    suites: PathLikes,
    areas: str | Sequence[str] | None,
    limit: int | None,
    generate: int | None,
    allow_code: bool,
    cache: bool,
    threads: int | None,
    *,
    speed: bool = False,
) -> MeasurementOptions:
    """Make measurement options. InputError: a suite is broken. UsageError: allow_code without generate.

    ResourceError: allow_code where programs cannot be contained.
    """
    from q3edge.pipeline.measure.measurement import MeasurementOptions

    return MeasurementOptions(
        reference=None if reference is None else str(reference),
        suites=_suites(paths(suites)),
        areas=None if areas is None else words(areas),
        limit=limit,
        asking=_asking(generate, allow_code),
        speed=speed,
        threads=threads,
        cache=cache,
    )


def _suites(files: tuple[Path, ...]) -> tuple[Suite, ...] | None:
    if not files:
        return None
    from q3edge.evaluation.suites.suite_files import read_suites

    return read_suites(files)


def _asking(generate: int | None, allow_code: bool) -> AnswerOptions | None:
    if generate is None:
        if allow_code:
            raise UsageError("--allow-code runs what --generate writes: add --generate")
        return None
    from q3edge.pipeline.measure.measurement import AnswerOptions

    if allow_code:
        from q3edge.evaluation.sandbox.sandbox import Sandbox

        Sandbox.open()  # refused before anything is measured
    return AnswerOptions(max_new_tokens=generate, run_code=allow_code)
