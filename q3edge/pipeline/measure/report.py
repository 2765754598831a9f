"""Artifacts -> `Report`: each is evaluated against the reference and timed, unless its results are cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import count_weights
from q3edge.artifact import artifact_digest, folder_name
from q3edge.checkpoint import open_float_model
from q3edge.errors import Q3EdgeError, UsageError
from q3edge.kernels.choice import chosen_name
from q3edge.machine.cpu import cpu_name, default_threads, slow_block_products
from q3edge.machine.tool_versions import tool_versions
from q3edge.pipeline.measure.gate import recorded_validation
from q3edge.pipeline.measure.measurement import MeasurementOptions, evaluate_with, here, model_name
from q3edge.pipeline.measure.measurement_cache import cached_measurement
from q3edge.pipeline.measure.speed import artifact_speed
from q3edge.pipeline.measure.tensor_facts import facts_of_experts, summarized_schemes, tensor_facts
from q3edge.quantization.recipe import Recipe
from q3edge.report.content import Failure, ReferenceFacts, Report, Speed, Variant, compared_kl
from q3edge.report.gates import Gates
from q3edge.report.recommendation import recommend
from q3edge.report.thinking import advise
from q3edge.runtime.session.loader import open_artifact


def make_report(folders: Sequence[Path], measuring: MeasurementOptions, gates: Gates, command: str = "") -> Report:
    """Measure the artifacts in `folders` (at least one) and make a report of them; command: the line that makes it.

    Every folder is checked before anything is measured. InputError: one is broken. What cannot be measured is listed
    in the report, not raised.
    """
    names = unique_names(folders)
    for folder in folders:
        open_artifact(folder)
    variants = []
    for name, folder in zip(names, folders):
        progress.note(f"{name}: measure")
        variants.append(measure_artifact(name, folder, measuring))
    return assemble(variants, (), measuring, gates, command)


def assemble(
    variants: Sequence[Variant],
    failures: Sequence[Failure],
    measuring: MeasurementOptions,
    gates: Gates,
    command: str = "",
) -> Report:
    """Assemble a report of measured variants: artifacts from the largest to the smallest, then baselines.

    Only artifacts are recommended; baselines are for comparison.
    """
    ordered = sorted(variants, key=lambda variant: (variant.kind, -variant.model_bytes))
    reference = describe_reference(measuring.reference) if measuring.reference else None
    artifacts = [variant for variant in ordered if variant.kind == "artifact"]
    return Report(
        reference=reference,
        variants=tuple(ordered),
        failures=tuple(failures),
        gates=gates,
        recommendation=recommend(
            artifacts, gates, reference.stored_bytes if reference else None, compared_kl(variants)
        ),
        machine={
            "CPU": cpu_name(),
            "Threads": str(measuring.threads or default_threads()),
            "Kernels": chosen_name(measuring.kernels),
        }
        | ({"Note": slow} if (slow := slow_block_products()) else {}),
        versions=tool_versions("onnxruntime", "torch", "numpy"),
        command=command,
        thinking=advise(artifacts),
    )


def measure_artifact(name: str, folder: Path, measuring: MeasurementOptions) -> Variant:
    """Measure what a report says about one artifact; what cannot be measured is in `missing` with the reason.

    InputError: the folder is no sound artifact.
    """
    manifest = open_artifact(folder)
    config = Qwen3Config.load(folder)
    facts = tensor_facts(manifest, config)
    variant = Variant(
        name=name,
        kind="artifact",
        digest=artifact_digest(folder),
        model_bytes=manifest.model_bytes,
        bits_per_weight=manifest.metrics.get("bits_per_weight"),
        formats=summarized_schemes(facts) + _experts_in_words(manifest.fewer_experts),
        method=Recipe.from_json(manifest.recipe).method,
        validation=recorded_validation(manifest),
        tensors=facts,
        experts=facts_of_experts(manifest, config),
        notices=manifest.notices,
        versions=manifest.versions,
        folder=folder_name(folder) if folder.is_absolute() else str(folder),
        fewer_experts=manifest.fewer_experts,
    )
    variant = _evaluated(variant, folder, measuring)
    return _timed(variant, folder, measuring) if measuring.speed else variant


def _experts_in_words(fewer: tuple[int, int] | None) -> str:
    return "" if fewer is None else f"; {fewer[0]} experts a token in place of {fewer[1]}"


def describe_reference(model: str) -> ReferenceFacts:
    """Read the facts that a report gives of the reference MODEL (folder or hub id)."""
    with open_float_model(model) as checkpoint:
        return ReferenceFacts(
            name=model_name(model),
            digest=checkpoint.digest(),
            stored_bytes=checkpoint.stored_bytes,
            weights=count_weights(checkpoint.config),
            dtypes=checkpoint.dtype_counts(),
        )


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Display name of each folder, with its parent's name where two are alike. UsageError: a folder given twice."""
    resolved = [folder.resolve() for folder in folders]
    if double := next((folder for folder in folders if resolved.count(folder.resolve()) > 1), None):
        raise UsageError(f"{double}: given twice")
    names = [folder_name(folder) for folder in resolved]
    return [name if names.count(name) == 1 else f"{folder.parent.name}/{name}" for name, folder in zip(names, resolved)]


def _evaluated(variant: Variant, folder: Path, measuring: MeasurementOptions) -> Variant:
    if measuring.reference is None:
        return _lacking(variant, "recovery was not measured: give --reference MODEL")
    try:
        scorecard = evaluate_with(folder, measuring)
    except Q3EdgeError as error:
        return _lacking(variant, f"not evaluated: {error}")
    return replace(variant, scorecard=scorecard)


def _timed(variant: Variant, folder: Path, measuring: MeasurementOptions) -> Variant:
    try:
        speed = cached_measurement(
            Speed,
            lambda: artifact_speed(folder, measuring.threads, measuring.kernels),
            asdict,
            cache=measuring.cache,
            artifact=variant.digest,
            **here(measuring.threads, measuring.kernels),
        )
    except Q3EdgeError as error:
        return _lacking(variant, f"not timed: {error}")
    return replace(variant, speed=speed)


def _lacking(variant: Variant, reason: str) -> Variant:
    return replace(variant, missing=(*variant.missing, reason))
