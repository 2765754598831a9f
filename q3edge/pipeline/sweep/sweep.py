"""Sweep: many variants of one model are built, evaluated, timed and reported. A stopped sweep can be continued.

OUT/<name>/ holds each artifact, OUT/sweep.json the request that each was made for, OUT/report.{html,json,md} the
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from q3edge import progress
from q3edge.checkpoint import open_float_model
from q3edge.errors import ResourceError, UsageError, describe_error, resumable
from q3edge.evaluation.baselines import BASELINES
from q3edge.evaluation.cache import EvaluationCache, cache_folder
from q3edge.evaluation.exported_baselines import EXPORTED
from q3edge.pipeline.measure.baseline_variants import measure_baseline
from q3edge.pipeline.measure.exported_variants import measure_exported
from q3edge.pipeline.measure.measurement import MeasurementOptions
from q3edge.pipeline.measure.report import assemble, measure_artifact
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.pipeline.sweep.builds import build_all, build_by_workers, fits_workers, job_for
from q3edge.pipeline.sweep.ledger import Ledger, request_digest
from q3edge.pipeline.sweep.steps import counted_steps
from q3edge.pipeline.sweep.variants import VariantRequest
from q3edge.report.content import Failure, Report, Variant
from q3edge.report.files import write_report
from q3edge.report.gates import Gates
from q3edge.storage.locks import output_lock

REPORT = "report"  # .html, .json and .md


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Result of a sweep: the report, and the variants that were found finished and not built."""

    report: Report
    resumed: tuple[str, ...]


def run_sweep(
    output: Path,
    asked: Sequence[VariantRequest],
    measuring: MeasurementOptions,
    gates: Gates,
    calibration: CalibrationOptions | None = None,
    *,
    jobs: int = 1,
    command: str = "",
) -> SweepResult:
    """Build the variants in `asked` (at least one) that are not finished in `output`, measure all, write the report.

    The model is the reference of `measuring`. jobs: artifacts built at a time, each in a process of its own; they are
    measured one after another. command: the line that the report says makes it again. A variant that fails is listed
    in the report. UsageError: `output` is no folder of a sweep, or the model is one of embeddings. ResourceError:
    another process, which the message names, is at it, or a baseline's library is not installed.
    """
    assert measuring.reference is not None, "a sweep is of a model"
    _require_baselines(asked)
    failures: dict[str, str] = {}
    with resumable(), output_lock(output):  # two sweeps would each write the ledger without the other's variants
        resumed = _build(measuring, output, asked, calibration, jobs, failures)
        variants = _measure(output, [v for v in asked if v.name not in failures], measuring, failures)
        listed = [Failure(v.name, failures[v.name]) for v in asked if v.name in failures]
        report = assemble(variants, listed, measuring, gates, command)
        files = {suffix: output / f"{REPORT}.{suffix}" for suffix in ("html", "json", "md")}
        write_report(report, page=files["html"], json_file=files["json"], markdown=files["md"])
    return SweepResult(report, resumed)


def _require_baselines(asked: Sequence[VariantRequest]) -> None:
    for variant in asked:
        if variant.baseline is not None:
            try:
                (EXPORTED.get(variant.baseline) or BASELINES[variant.baseline]).check()
            except ResourceError as error:
                raise ResourceError(f"{variant.name}: {error}, or leave it out of --formats") from None


def _build(
    measuring: MeasurementOptions,
    output: Path,
    asked: Sequence[VariantRequest],
    calibration: CalibrationOptions | None,
    jobs: int,
    failures: dict[str, str],
) -> tuple[str, ...]:
    """Build the missing artifacts; adds to `failures`, and returns the names that were finished before."""
    with open_float_model(measuring.reference or "") as checkpoint:
        if checkpoint.config.is_embedding:
            raise UsageError(
                f"{checkpoint.folder}: an embedding model, which predicts no tokens to compare variants by; build them "
                "one by one: q3edge build MODEL -o DIR --format FORMAT"
            )
        folder, model_digest = checkpoint.folder, checkpoint.digest()
    ledger = Ledger(output)
    requests = {v.name: request_digest(model_digest, v, calibration) for v in asked if v.baseline is None}
    resumed = tuple(name for name, request in requests.items() if ledger.is_finished(name, request))
    for name in resumed:
        progress.note(f"{name}: finished before, not built again")
    states = EvaluationCache(cache_folder()) if measuring.cache else None
    waiting = []
    for variant in asked:
        if variant.name not in requests or variant.name in resumed:
            continue
        if (output / variant.name).exists() and not ledger.knows(variant.name):
            failures[variant.name] = "its folder exists and was not made by a sweep; move it away"
        else:
            waiting.append(job_for(variant, str(folder), output, calibration, measuring.threads, states))
    ledger.begin(job.name for job in waiting)
    by_workers = fits_workers(checkpoint, calibration)
    for name, reason in build_by_workers(checkpoint, waiting) if by_workers else build_all(waiting, jobs):
        if reason is None:
            ledger.finish(name, requests[name])
        else:
            failures[name] = reason
            progress.note(f"{name}: failed: {reason}")
    return resumed


def _measure(
    output: Path, asked: Sequence[VariantRequest], measuring: MeasurementOptions, failures: dict[str, str]
) -> list[Variant]:
    """Measure every variant in `asked`; adds to `failures`."""
    variants = []
    for variant in counted_steps(asked, "measure"):
        try:
            if variant.baseline is not None:
                variants.append(_measured_baseline(variant.baseline, measuring))
            else:
                variants.append(measure_artifact(variant.name, output / variant.name, measuring))
        except Exception as error:
            failures[variant.name] = describe_error(error)[0]
            progress.note(f"{variant.name}: failed: {failures[variant.name]}")
    return variants


def _measured_baseline(name: str, measuring: MeasurementOptions) -> Variant:
    if name in EXPORTED:
        return measure_exported(EXPORTED[name], measuring)
    return measure_baseline(BASELINES[name], measuring)
