"""Arguments of the public functions -> options of the pipelines, with every check on their combinations."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from q3edge.defaults import ANSWER_TOKENS, FORMAT, SAMPLES, SEQ_LEN
from q3edge.errors import UsageError
from q3edge.formats import FLOAT, CacheType, Program
from q3edge.progress import note

if TYPE_CHECKING:
    from q3edge.evaluation.suites.suite import Suite
    from q3edge.pipeline.measure.measurement import AnswerOptions, MeasurementOptions
    from q3edge.pipeline.quantize.calibrate import Budget, CalibrationOptions
    from q3edge.pipeline.sweep.variants import VariantRequest
    from q3edge.quantization.recipe import Recipe

PathLike = str | Path
PathLikes = PathLike | Sequence[PathLike]
Method = Literal["keep", "gptq", "rtn"]
Budgets = int | Sequence[int | None]  # of thinking, in tokens; None: no limit

RECIPE_DECIDES = "--recipe decides the formats: leave out --format, --group-size and --symmetric/--asymmetric"


def paths(given: PathLikes) -> tuple[Path, ...]:
    """Make a tuple of one path or several."""
    return (Path(given),) if isinstance(given, str | os.PathLike) else tuple(map(Path, given))


def starting_from(verb: str, model: PathLike) -> None:
    """Say that work on a checkpoint begins. InputError: it is neither a path nor of the form of a hub id."""
    from q3edge.checkpoint.hub import local_path, parts_of

    base, adapter = parts_of(model)
    local_path(base)
    if adapter is not None:
        local_path(adapter)
    starting(verb, model)


def starting(verb: str, *models: PathLike) -> None:
    """Say that work on `models` begins, before torch is imported, which takes seconds, and many on a busy machine."""
    note(f"{' '.join([verb, *map(str, models)])}: loading PyTorch, which takes some seconds")


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
    program: Program | None = None,
) -> Recipe:
    """Make the recipe asked for; a str without a suffix names a format, which is made for the program. vLLM's is one.

    UsageError: options that a file decides, or a format of the codes that are to be kept.
    """
    from dataclasses import replace

    from q3edge.quantization.recipe import KEEP, Recipe

    chosen = group_size is not None or symmetric is not None or isinstance(recipe, str)
    if method == KEEP and chosen:
        raise UsageError("--method keep keeps the format that is there: leave out --format, --group-size, --symmetric")
    if program == "vllm":
        found = Recipe.for_vllm()
    elif recipe is None and not chosen:  # nobody chose a format: one that is there stays
        found = replace(_named(FORMAT, None, None, program), method=KEEP)
    elif recipe is None or (isinstance(recipe, str) and not Path(recipe).suffix):
        found = _named(recipe or FORMAT, group_size, symmetric, program)
    elif group_size is not None or symmetric is not None:
        raise UsageError(RECIPE_DECIDES)
    else:
        found = recipe if isinstance(recipe, Recipe) else Recipe.load(Path(recipe))
    return replace(found, method=method or found.method, kv_cache=kv_cache or found.kv_cache)


def require_no_format(program: Program, method: Method | None, *formats: object) -> None:
    """Raise UsageError if a format is given (is not None) beside the program that decides it, or codes to be kept."""
    if method == "keep" or any(value is not None for value in formats):
        raise UsageError(
            f"--for {program} chooses the format itself: leave out --format, --group-size, --symmetric/--asymmetric, "
            "--recipe, --kv, --target-size, --target-bpw and --method keep"
        )


def _named(name: str, group_size: int | None, symmetric: bool | None, program: Program | None) -> Recipe:
    """Make the recipe of a format; for GGUF in blocks of 32, unless a group size is given."""
    from q3edge.quantization.recipe import Recipe

    found = Recipe.for_format(name, group_size, symmetric)
    return found.in_blocks(32 if group_size is None else None) if program == "gguf" else found


def refuse_for_float(calibration: CalibrationOptions, **given: object) -> None:
    """Raise UsageError if an option for quantized weights is given (is not None), or one of a calibration."""
    from q3edge.pipeline.quantize.calibrate import CalibrationOptions

    if calibration != CalibrationOptions() or any(value is not None for value in given.values()):
        raise UsageError(
            f"--format {FLOAT} is not quantized: leave out --group-size, --symmetric, --method, --kv, --calibration, "
            "--samples, --seq-len, --seed, --restart, --reconstruct and --tune"
        )


def require_no_onnx_options(to: str, last_logits: bool, experts: str, experts_per_token: int | None) -> None:
    """Raise UsageError if an option of ONNX models is given for another format."""
    if last_logits or experts != "qmoe" or experts_per_token is not None:
        raise UsageError(f"--to {to}: leave out --last-logits, --experts and --experts-per-token, which are for ONNX")


def refuse_unused(variants: Sequence[VariantRequest], calibration: CalibrationOptions) -> None:
    """Raise UsageError if a calibration is described of which no variant of a sweep makes use."""
    from q3edge.pipeline.quantize.calibrate import CalibrationOptions

    used = any(v.budget is not None or (v.recipe is not None and v.recipe.method != "rtn") for v in variants)
    if not used and calibration != CalibrationOptions():
        raise UsageError("no format of this sweep is calibrated: leave out --calibration, --samples and --seq-len")


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
    """Make the calibration options asked for. UsageError: rows are described that a file of tokens has of its own.

    InputError, ResourceError: those of `require_texts`.
    """
    from q3edge.calibration.data import TOKEN_FILE
    from q3edge.pipeline.quantize.calibrate import CalibrationOptions, require_texts

    texts = paths(calibration)
    if any(text.suffix == TOKEN_FILE for text in texts) and (len(texts), samples, seq_len, seed) != (
        1, SAMPLES, SEQ_LEN, 0,
    ):  # fmt: skip
        raise UsageError(
            f"a {TOKEN_FILE} file holds the rows themselves: give it alone, without --samples, --seq-len and --seed"
        )
    require_texts(texts)
    return CalibrationOptions(
        texts, samples, seq_len, seed,
        reconstruct=reconstruct, tune=tune, restart=restart, budget=budget,
    )  # fmt: skip


def parse_size(size: str | int, name: str = "--target-size") -> int:
    """Parse a size in bytes: "350MB", "1.2GB" or an int; units are decimal unless written with an i (MiB)."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?b?|b)\s*", f"{size}B" if isinstance(size, int) else size, re.I)
    if found is None:
        raise UsageError(f"{name} {size!r}: expected a size with its unit, such as 350MB or 1.2GB")
    number, unit = found.groups()
    power = "bkmg".index(unit[0].lower())
    found_bytes = float(number) * (1024 if "i" in unit.lower() else 1000) ** power
    if math.isinf(found_bytes):
        raise UsageError(f"{name} {str(size)[:20]}...: expected a finite size such as 350MB or 1.2GB")
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
    kernels: str | None,
    *,
    thinking_budgets: Budgets | None = None,
    speed: bool = False,
) -> MeasurementOptions:
    """Make measurement options. InputError: a suite is broken. UsageError: allow_code without generate, or a thinking
    budget that no answer can use up.

    ResourceError: allow_code where programs cannot be contained.
    """
    from q3edge.pipeline.measure.measurement import MeasurementOptions

    return MeasurementOptions(
        reference=None if reference is None else str(reference),
        suites=_suites(paths(suites)),
        areas=None if areas is None else words(areas),
        limit=limit,
        asking=_asking(generate, allow_code, thinking_budgets),
        speed=speed,
        threads=threads,
        kernels=kernels,
        cache=cache,
    )


def _suites(files: tuple[Path, ...]) -> tuple[Suite, ...] | None:
    if not files:
        return None
    from q3edge.evaluation.suites.suite_files import read_suites

    return read_suites(files)


def _asking(generate: int | None, allow_code: bool, thinking_budgets: Budgets | None) -> AnswerOptions | None:
    budgets = _ascending(thinking_budgets)
    largest = max((budget for budget in budgets if budget is not None), default=0)
    if generate is None and budgets:
        generate = largest + ANSWER_TOKENS
    if generate is None:
        if allow_code:
            raise UsageError("--allow-code runs what --generate writes: add --generate")
        return None
    from q3edge.pipeline.measure.measurement import AnswerOptions

    if allow_code:
        from q3edge.evaluation.sandbox.sandbox import Sandbox

        Sandbox.open()  # refused before anything is measured
    if largest >= generate:
        raise UsageError(f"a thinking budget of {largest} needs longer answers: --generate {largest + ANSWER_TOKENS}")
    return AnswerOptions(max_new_tokens=generate, run_code=allow_code, thinking_budgets=budgets)


def _ascending(budgets: Budgets | None) -> tuple[int | None, ...]:
    """Each of the budgets once, ascending, None (no limit) last."""
    given = (budgets,) if isinstance(budgets, int) else tuple(budgets or ())
    numbers = sorted({budget for budget in given if budget is not None})
    return (*numbers, None) if None in given else tuple(numbers)
