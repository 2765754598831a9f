"""Public functions that compare several models and recommend one: sweep, make_report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from q3edge.defaults import MAX_KL, MIN_RECOVERY, SAMPLES, SEQ_LEN
from q3edge.library.arguments import Number, Several, public
from q3edge.library.command_line import command_line
from q3edge.library.requests import (
    Budgets,
    Method,
    PathLike,
    PathLikes,
    artifact_at,
    calibration_for,
    measuring_for,
    paths,
    refuse_unused,
    starting,
    starting_from,
    words,
)
from q3edge.progress import Listener

if TYPE_CHECKING:
    from q3edge.pipeline.sweep.sweep import SweepResult
    from q3edge.report.content import Report

_NO_OPTIONS = ("model", "folders", "progress", "scheduler")


@public(target_bpw=Several(Number(0, whole=False, above=True)), experts_per_token=Several(Number(1)))
def sweep(
    model: PathLike,
    output: PathLike,
    formats: str | Sequence[str] = (),
    *,
    target_bpw: float | Sequence[float] = (),
    experts_per_token: int | Sequence[int] = (),
    method: Method | None = None,
    calibration: PathLikes = (),
    samples: int = SAMPLES,
    seq_len: int = SEQ_LEN,
    jobs: int = 1,
    min_recovery: float = MIN_RECOVERY,
    max_kl: float = MAX_KL,
    speed: bool = True,
    suites: PathLikes = (),
    areas: str | Sequence[str] | None = None,
    limit: int | None = None,
    generate: int | None = None,
    allow_code: bool = False,
    thinking_budgets: Budgets | None = None,
    cache: bool = True,
    threads: int | None = None,
    kernels: str | None = None,
    scheduler: str | None = None,
    progress: bool | Listener = False,
) -> SweepResult:
    """Build `model` in many `formats` below the folder `output`, measure each as `evaluate` does, and write a report.

    formats: names such as "int8" or "int4-g64-sym", "float", or a baseline ("nf4"); target_bpw: budgets in bits per
    weight; experts_per_token: numbers that each of these is built with, of a mixture of experts. scheduler: address of
    a Dask scheduler, whose workers build the formats. kernels: with which they are measured, as for `load`. A stopped
    sweep is continued by the same call. A format that fails is listed in the report with its reason.
    Raises UsageError, InputError, ResourceError.
    """
    command = command_of("sweep", sweep, locals())
    starting_from("sweep", model)
    from q3edge.kernels.choice import choose
    from q3edge.pipeline.sweep.sweep import run_sweep
    from q3edge.pipeline.sweep.variants import parse_variants
    from q3edge.report.gates import Gates

    choose(kernels)  # what is wrong is refused before the work, not behind it
    budgets = [target_bpw] if isinstance(target_bpw, int | float) else target_bpw
    chosen = [experts_per_token] if isinstance(experts_per_token, int) else experts_per_token
    asked = parse_variants(words(formats), budgets, method, chosen)
    calibrating = calibration_for(calibration, samples, seq_len)
    refuse_unused(asked, calibrating)
    measuring = measuring_for(
        model, suites, areas, limit, generate, allow_code, cache, threads, kernels,
        thinking_budgets=thinking_budgets, speed=speed,
    )  # fmt: skip
    return run_sweep(
        Path(output),
        asked,
        measuring,
        Gates(min_recovery, max_kl),
        calibrating,
        jobs=jobs,
        command=command,
    )


@public()
def make_report(
    folders: PathLikes,
    *,
    reference: PathLike | None = None,
    page: PathLike | None = None,
    json_file: PathLike | None = None,
    markdown: PathLike | None = None,
    min_recovery: float = MIN_RECOVERY,
    max_kl: float = MAX_KL,
    speed: bool = True,
    suites: PathLikes = (),
    areas: str | Sequence[str] | None = None,
    limit: int | None = None,
    generate: int | None = None,
    allow_code: bool = False,
    thinking_budgets: Budgets | None = None,
    cache: bool = True,
    threads: int | None = None,
    kernels: str | None = None,
    progress: bool | Listener = False,
) -> Report:
    """Compare the ONNX models in `folders` and recommend one; the report is also written to the files given.

    Missing measurements are made: accuracy against `reference` as `evaluate` does, then, with `speed`, the speed. With
    thinking_budgets the report also recommends a variant with one of them.
    kernels: as for `load`. page: HTML; json_file: the same numbers; markdown: tables for a model card. Raises
    UsageError, InputError, ResourceError.
    """
    command = command_of("report", make_report, locals())
    starting("report", *paths(folders))
    from q3edge.pipeline.measure.report import make_report as measured_report
    from q3edge.report.files import write_report
    from q3edge.report.gates import Gates

    measuring = measuring_for(
        reference, suites, areas, limit, generate, allow_code, cache, threads, kernels,
        thinking_budgets=thinking_budgets, speed=speed,
    )  # fmt: skip
    gates = Gates(min_recovery, max_kl)
    report = measured_report([artifact_at(folder) for folder in paths(folders)], measuring, gates, command)
    written = {"page": page, "json_file": json_file, "markdown": markdown}
    write_report(report, **{name: Path(file) for name, file in written.items() if file is not None})
    return report


def command_of(verb: str, function: Callable[..., object], given: Mapping[str, Any]) -> str:
    """Compose the command line of a call of `function` with these arguments by name."""
    defaults = {name: found.default for name, found in inspect.signature(function).parameters.items()}
    words = paths(given["folders"]) if "folders" in given else (given["model"],)
    options = {name: given[name] for name in defaults if name in given and name not in _NO_OPTIONS}
    return command_line(verb, words, options, defaults)
