"""Measurement of a baseline that another program exports: made once, then the same suites and scores as an artifact."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from q3edge import progress
from q3edge.architecture.tensors import count_weights
from q3edge.artifact import InputState
from q3edge.checkpoint import Checkpoint, open_float_model
from q3edge.evaluation.exported_baselines import ExportedBaseline, ExportedDecoder
from q3edge.evaluation.scorecard.assemble import Identity
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.suites.selection import Selection
from q3edge.evaluation.suites.suite import Suite
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.kernels.choice import ONNXRUNTIME
from q3edge.machine.cpu import default_threads
from q3edge.pipeline.measure.baseline_scores import evaluate_baseline
from q3edge.pipeline.measure.identity import identity_of
from q3edge.pipeline.measure.measurement import MeasurementOptions, here
from q3edge.pipeline.measure.measurement_cache import cached_measurement
from q3edge.pipeline.measure.speed import NEW, PROMPT, REPEATS
from q3edge.report.content import Speed, Spread, Variant
from q3edge.storage.digests import json_digest


@dataclass(frozen=True, slots=True)
class ExportSize:
    """Bytes of the graph and its weights."""

    model_bytes: int


class _Export:
    """The exported model, made when something first asks for it; `stack` removes it."""

    def __init__(self, baseline: ExportedBaseline, checkpoint: Checkpoint, stack: ExitStack) -> None:
        self._baseline, self._checkpoint, self._stack = baseline, checkpoint, stack

    @cached_property
    def model(self) -> Path:
        """Path of the model."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="q3edge-export-"))
        progress.note(f"{self._baseline.name}: exported by optimum, in its own environment")
        return self._baseline.make(self._checkpoint.folder, Path(folder))


def measure_exported(baseline: ExportedBaseline, measuring: MeasurementOptions) -> Variant:
    """Measure what a report says about a model that another program makes of the reference.

    It is only evaluated teacher-forced. ResourceError: there is no environment with the exporter. InputError: it fails.
    """
    assert measuring.reference is not None, "a baseline is made from the reference"
    tools = baseline.versions()
    selection = Selection(measuring.areas, measuring.limit)
    suites = selection.apply(measuring.suites or built_in_suites())
    with open_float_model(measuring.reference) as checkpoint, ExitStack() as stack:
        export = _Export(baseline, checkpoint, stack)
        state = InputState(checkpoint.folders)
        reference = (measuring.reference, checkpoint.digest())
        packages = ("onnxruntime", "numpy", "tokenizers")
        identity = identity_of((baseline.name, json_digest(tools)), reference, suites, selection, None, packages)
        made = {"baseline": baseline.name, "reference": identity.reference_digest, "tools": tools}
        scorecard = cached_measurement(
            Scorecard,
            lambda: _evaluate(export, identity, checkpoint, suites, measuring, state),
            asdict,
            cache=measuring.cache,
            identity=asdict(identity),
        )
        speed = None
        if measuring.speed:
            speed = cached_measurement(
                Speed,
                lambda: _speed(export.model, checkpoint, measuring.threads),
                asdict,
                cache=measuring.cache,
                **made,
                **here(measuring.threads, ONNXRUNTIME),
            )
        size = cached_measurement(
            ExportSize, lambda: ExportSize(_bytes_of(export.model)), asdict, cache=measuring.cache, **made
        ).model_bytes
        weights = count_weights(checkpoint.config)
    missing = ["peak memory: it was timed in the process that measures"] if measuring.speed else []
    if measuring.asking:
        missing.append("answers in its own words were not generated: a baseline has no decoder of q3edge's")
    return Variant(
        name=baseline.name,
        kind="baseline",
        digest=identity.reference_digest,
        model_bytes=size,
        bits_per_weight=8 * size / weights,
        formats=baseline.formats,
        method=f"optimum-onnx {tools['optimum-onnx']}",
        scorecard=scorecard,
        speed=speed,
        versions={**identity.versions, **{f"{name} (exporter)": version for name, version in tools.items()}},
        missing=tuple(missing),
    )


def _evaluate(
    export: _Export,
    identity: Identity,
    checkpoint: Checkpoint,
    suites: Sequence[Suite],
    measuring: MeasurementOptions,
    state: InputState,
) -> Scorecard:
    """Evaluate the export teacher-forced against the float model; making and loading it are not timed."""
    decoder = ExportedDecoder(export.model, checkpoint.config, measuring.threads)
    return evaluate_baseline(lambda _windows: decoder, identity, checkpoint, suites, measuring, state)


def _speed(model: Path, checkpoint: Checkpoint, threads: int | None) -> Speed:
    """Time a prefill of PROMPT tokens, and NEW tokens from an empty context, REPEATS times after one that warms up."""
    decoder = ExportedDecoder(model, checkpoint.config, threads)
    prompt = min(PROMPT, checkpoint.config.max_position_embeddings - NEW)
    ids = (np.arange(prompt) % checkpoint.config.vocab_size)[None]
    runs = [(_seconds(decoder, ids), _token_seconds(decoder, ids[:, :1])) for _ in range(REPEATS + 1)][1:]
    return Speed(
        tokens_per_second=Spread.of([NEW / decode for _, decode in runs]),
        prefill_tokens_per_second=Spread.of([prompt / prefill for prefill, _ in runs]),
        peak_bytes=None,
        repeats=REPEATS,
        prompt=prompt,
        depth=0,
        new=NEW,
        threads=threads or default_threads(),
    )


def _seconds(decoder: ExportedDecoder, ids: np.ndarray) -> float:
    start = time.perf_counter()
    decoder.forward(ids, decoder.new_cache(ids.shape[1]))
    return time.perf_counter() - start


def _token_seconds(decoder: ExportedDecoder, token: np.ndarray) -> float:
    cache = decoder.new_cache(NEW)
    start = time.perf_counter()
    for _ in range(NEW):
        decoder.forward(token, cache)
    return time.perf_counter() - start


def _bytes_of(model: Path) -> int:
    """Bytes of the graph and of files of weights beside it."""
    return sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))
