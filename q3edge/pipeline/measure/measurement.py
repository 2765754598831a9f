"""`MeasurementOptions` and `AnswerOptions`: options of measuring a variant. Neither needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from q3edge.artifact import MANIFEST_FILE, ArtifactKind, Manifest, folder_name
from q3edge.defaults import ANSWER_TOKENS
from q3edge.errors import InputError, UsageError
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.suites.suite import Suite
from q3edge.kernels.choice import kernel_facts
from q3edge.machine.cpu import cpu_name, default_threads
from q3edge.runtime.session.loader import load_manifest


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """Options of generated answers. seed: None: greedy; otherwise sampled with the checkpoint's settings.

    run_code: run the programs that models write, in a sandbox. thinking_budgets: the artifact also answers with each
    of them, tokens in ascending order, None (no limit) last.
    """

    max_new_tokens: int = ANSWER_TOKENS
    seed: int | None = None
    run_code: bool = False
    thinking_budgets: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class MeasurementOptions:
    """Options of a measurement. reference: a float MODEL; None: nothing is evaluated, a report shows the manifests.

    suites: None: built in; areas: None: all; limit: items and windows of each suite (None: all); asking: options of
    generated answers (None: none). speed: measure it too. kernels: as for `Decoder`. cache: reuse earlier measurements,
    and keep new ones.
    """

    reference: str | None = None
    suites: tuple[Suite, ...] | None = None
    areas: tuple[str, ...] | None = None
    limit: int | None = None
    asking: AnswerOptions | None = None
    speed: bool = True
    threads: int | None = None
    kernels: str | None = None
    cache: bool = True


def evaluate_with(folder: Path, measuring: MeasurementOptions) -> Scorecard:
    """Evaluate the artifact in `folder` against the reference, which must be given; errors: those of `evaluate`."""
    from q3edge.pipeline.measure.evaluate import (
        evaluate,
    )  # imports torch, which a gate on recorded numbers does not need

    assert measuring.reference is not None, "nothing to compare with"
    return evaluate(
        folder,
        measuring.reference,
        measuring.suites,
        areas=measuring.areas,
        limit=measuring.limit,
        asking=measuring.asking,
        threads=measuring.threads,
        kernels=measuring.kernels,
        use_cache=measuring.cache,
    )


def here(threads: int | None, kernels: str | None) -> dict[str, str]:
    """Facts of this machine that decide a speed: CPU, threads (None: the default), onnxruntime's version, kernels."""
    facts = {"cpu": cpu_name(), "threads": str(threads or default_threads()), "onnxruntime": ort.__version__}
    return {**facts, **kernel_facts(kernels)}


def is_onnx_artifact(folder: Path) -> bool:
    """Tell whether `folder` holds an exported model, not a float or quantized checkpoint."""
    return (folder / MANIFEST_FILE).exists() and Manifest.load(folder).is_onnx


def require_artifact(folder: Path, reference: str, command: str, *kinds: ArtifactKind) -> Manifest:
    """Load the manifest of an artifact of one of `kinds` (none: a decoder).

    InputError: `folder` is none. UsageError: its `reference` is one: the two were swapped.
    """
    try:
        return load_manifest(folder, *kinds)
    except InputError:
        if folder.is_dir() and is_onnx_artifact(Path(reference)):
            raise UsageError(
                f"{folder} is not the ONNX model, {reference} is: q3edge {command} {reference} --reference {folder}"
            ) from None
        raise


def model_name(model: str) -> str:
    """Display name of MODEL: a folder's last name; a hub id as it is."""
    folder = Path(model).expanduser()
    return folder_name(folder) if folder.is_dir() else model
