"""Building the artifacts of a sweep, one at a time or several; a failure is a reason, not an exception."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge import progress
from q3edge.artifact import staged_directory
from q3edge.checkpoint.source import ModelFolder
from q3edge.cluster.place import present_place
from q3edge.errors import describe_error
from q3edge.evaluation.cache import EvaluationCache
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.pipeline.sweep.steps import counted_steps
from q3edge.pipeline.sweep.variants import VariantRequest
from q3edge.quantization.recipe import Recipe

_at_work = False  # a process of the pool
_SENT_WHOLE = 2 << 30  # bytes of a checkpoint up to which workers of a cluster build whole artifacts and send them
_VALIDATED_TOKENS = 1024  # while building, to find what is broken; the evaluation that follows uses all text


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to build; plain values that can be sent to another process.

    states: the cache that keeps the float model's hidden states for the next one (None: each computes them).
    """

    model: str
    output: Path
    name: str
    recipe: Recipe | None
    calibration: CalibrationOptions | None
    threads: int | None
    overwrite: bool
    experts_per_token: int | None
    states: EvaluationCache | None


def job_for(
    asked: VariantRequest,
    model: str,
    output: Path,
    calibration: CalibrationOptions | None,
    threads: int | None,
    states: EvaluationCache | None = None,
) -> Job:
    """Make the job of a requested variant in the folder `output`; an existing folder is overwritten."""
    recipe = asked.recipe
    if asked.budget is not None:
        recipe = Recipe.for_format("int4")  # its method; the budget chooses the formats
        calibration = replace(calibration or CalibrationOptions(), budget=asked.budget)
    if recipe is None or recipe.method == "rtn":
        calibration = None
    folder = output / asked.name
    overwrite, chosen = folder.exists(), asked.experts_per_token
    return Job(model, folder, asked.name, recipe, calibration, threads, overwrite, chosen, states)


def build_all(jobs: Sequence[Job], at_a_time: int) -> Iterator[tuple[str, str | None]]:
    """Build all jobs, here or `at_a_time` in parallel processes; yields the name of each as it ends.

    With it comes None, or the reason if the job failed. Where this system has no semaphores (no /dev/shm), it is one
    at a time, and a note says so.
    """
    alone = at_a_time == 1 or len(jobs) < 2
    if not alone and (obstacle := _no_semaphores()):
        progress.note(f"models cannot be built side by side here ({obstacle}): they are built one after another")
        alone = True
    if alone:
        for job in counted_steps(jobs, "build"):
            yield job.name, _build(job, None)
        return
    threads = max(1, torch.get_num_threads() // at_a_time)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    others = {*multiprocessing.active_children()}
    with (
        ProcessPoolExecutor(at_a_time, mp_context=context, initializer=_follow_parent) as pool,
        progress.task("build", len(jobs)) as advance,
    ):
        running = {pool.submit(_build_apart, job, threads): job.name for job in jobs}
        try:
            for done in as_completed(running):
                advance(1)
                error = done.exception()
                yield running[done], describe_error(error)[0] if error else done.result()
        except BaseException:  # a signal: a build may have hours to go
            pool.shutdown(wait=False, cancel_futures=True)
            for child in {*multiprocessing.active_children()} - others:
                child.terminate()
            raise


def fits_workers(model: ModelFolder, calibration: CalibrationOptions | None) -> bool:
    """Tell whether each artifact can be built by one worker of a cluster: a small model, and text that workers have."""
    small = model.stored_bytes <= _SENT_WHOLE and not (calibration and calibration.texts)
    return small and present_place().elsewhere


def build_by_workers(model: ModelFolder, jobs: Sequence[Job]) -> Iterator[tuple[str, str | None]]:
    """Build all jobs by the workers of the present place, each by one of them; as `build_all`, but in order."""
    found = present_place().run(partial(map, partial(_build_there, model)), jobs)
    with progress.task("build", len(jobs)) as advance:
        for (reason, files), job in zip(found, jobs):
            if reason is None:
                with staged_directory(job.output, overwrite=job.overwrite) as staging:
                    for name, content in files.items():
                        (staging / name).parent.mkdir(parents=True, exist_ok=True)
                        content.tofile(staging / name)
            advance(1)
            yield job.name, reason


def _build_there(model: ModelFolder, job: Job) -> tuple[str | None, dict[str, NDArray[np.uint8]]]:
    """Build one artifact from the worker's own copy of the model; returns the reason if it failed, and its files."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / job.name
        reason = _build(replace(job, model=str(model.folder), output=output, overwrite=False, states=None), None)
        names = [] if reason else [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()]
        return reason, {name: np.fromfile(output / name, np.uint8) for name in names}


def _no_semaphores() -> str | None:
    """Why processes of a pool cannot wait for each other here; None: they can."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except (ImportError, OSError) as error:
        return f"no shared memory: {error.strerror if isinstance(error, OSError) else error}"
    return None


def _follow_parent() -> None:
    """Make a process of the pool end with the one that started it, and only by its word: Ctrl-C reaches both."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, daemon=True).start()


def _stop(_number: int, _frame: FrameType | None) -> None:
    if not _at_work:
        os._exit(143)
    raise SystemExit(143)  # so that staged folders are removed on the way out


def _build_apart(job: Job, torch_threads: int) -> str | None:
    """Build one artifact in a process of the pool, which a signal ends; the pool would have it wait for more."""
    global _at_work
    _at_work = True
    try:
        return _build(job, torch_threads)
    except SystemExit:
        os._exit(143)
    finally:
        _at_work = False


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
            reference_states=job.states,
            experts_per_token=job.experts_per_token,
            overwrite=job.overwrite,
        )
    except Exception as error:
        return describe_error(error)[0]
    return None
