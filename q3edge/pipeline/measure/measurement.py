"""`MeasurementOptions` and `AnswerOptions`: what is measured of each variant, and how. Neither needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from q3edge.artifact import MANIFEST_FILE, Manifest
from q3edge.defaults import ANSWER_TOKENS
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.suites.suite import Suite
from q3edge.machine.cpu import cpu_name, default_threads


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How models are asked: greedily, or with a `seed` as the checkpoint samples; run_code: whether programs run."""

    max_new_tokens: int = ANSWER_TOKENS
    seed: int | None = None
    run_code: bool = False


@dataclass(frozen=True, slots=True)
class MeasurementOptions:
    """reference: a float MODEL; None: nothing is evaluated, and a report tells what manifests say.

    suites (None: built in), areas (None: all), limit and asking are those of `evaluate`. speed: whether it is timed.
    cache: take from there, and keep there, what was measured.
    """

    reference: str | None = None
    suites: tuple[Suite, ...] | None = None
    areas: tuple[str, ...] | None = None
    limit: int | None = None
    asking: AnswerOptions | None = None
    speed: bool = True
    threads: int | None = None
    cache: bool = True


def evaluate_with(folder: Path, measuring: MeasurementOptions) -> Scorecard:
    """The artifact in `folder` against the reference, which has to be given; errors are those of `evaluate`."""
    from q3edge.pipeline.measure.evaluate import evaluate  # brings torch, which a gate on known numbers does not need

    assert measuring.reference is not None, "nothing to compare with"
    return evaluate(
        folder,
        measuring.reference,
        measuring.suites,
        areas=measuring.areas,
        limit=measuring.limit,
        asking=measuring.asking,
        threads=measuring.threads,
        use_cache=measuring.cache,
    )


def here(measuring: MeasurementOptions) -> dict[str, str]:
    """What decides a speed beside the model."""
    threads = measuring.threads or default_threads()
    return {"cpu": cpu_name(), "threads": str(threads), "onnxruntime": ort.__version__}


def is_onnx_artifact(folder: Path) -> bool:
    """Whether `folder` holds an exported model, and not a checkpoint, float or quantized."""
    return (folder / MANIFEST_FILE).exists() and Manifest.load(folder).kind == "onnx"


def model_name(model: str) -> str:
    """How a report calls MODEL: a folder by its last name, not by where it lies; a hub id as it is."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model
