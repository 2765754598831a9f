"""Building the artifacts of a sweep, one at a time or several; a failure is a reason, not an exception."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from q3edge import progress
from q3edge.errors import describe_error
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.pipeline.sweep.variants import VariantRequest
from q3edge.quantization.recipe import Recipe

_VALIDATED_TOKENS = 1024  # while building, to find what is broken; the evaluation that follows uses all text


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to build; plain values that can be sent to another process."""

    model: str
    output: Path
    name: str
    recipe: Recipe | None
    calibration: CalibrationOptions | None
    threads: int | None
    overwrite: bool


def job_for(
    asked: VariantRequest, model: str, output: Path, calibration: CalibrationOptions | None, threads: int | None
) -> Job:
    """Make the job of a requested variant in the folder `output`; an existing folder is overwritten."""
    recipe = asked.recipe
    if asked.budget is not None:
        recipe = Recipe.for_format("int4")  # its method; the budget chooses the formats
        calibration = replace(calibration or CalibrationOptions(), budget=asked.budget)
    if recipe is None or recipe.method == "rtn":
        calibration = None
    return Job(model, output / asked.name, asked.name, recipe, calibration, threads, (output / asked.name).exists())


def build_all(jobs: Sequence[Job], at_a_time: int) -> Iterator[tuple[str, str | None]]:
    """Build all jobs, here or `at_a_time` in parallel processes; yields the name of each as it ends.

    With it comes None, or the reason if the job failed.
    """
    if at_a_time == 1 or len(jobs) < 2:
        for job in jobs:
            progress.note(f"{job.name}: build")
            yield job.name, _build(job, None)
        return
    threads = max(1, torch.get_num_threads() // at_a_time)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with (
        ProcessPoolExecutor(at_a_time, mp_context=context) as pool,
        progress.task("build", len(jobs)) as advance,
    ):
        running = {pool.submit(_build, job, threads): job.name for job in jobs}
        try:
            for done in as_completed(running):
                advance(1)
                error = done.exception()
                yield running[done], describe_error(error)[0] if error else done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _build(job: Job, torch_threads: int | None) -> str | None:
    """Build one artifact; returns None, or the reason if it failed, so that the other variants continue."""
    if torch_threads is not None:
        torch.set_num_threads(torch_threads)
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        build_artifact(
            job.model,
            job.output,
            job.recipe,
            job.calibration,
            max_tokens=_VALIDATED_TOKENS,
            threads=job.threads,
            overwrite=job.overwrite,
        )
    except Exception as error:
        return describe_error(error)[0]
    return None
