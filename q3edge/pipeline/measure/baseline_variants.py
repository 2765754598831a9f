"""Measurement of a baseline like an artifact: the same suites, the same scores, and the speed of its products."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from q3edge.architecture.tensors import count_weights
from q3edge.artifact import InputState
from q3edge.checkpoint import open_float_model
from q3edge.evaluation.baselines import Baseline, BaselineDecoder
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.suites.selection import Selection
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.kernels.choice import ONNXRUNTIME
from q3edge.pipeline.measure.baseline_scores import evaluate_baseline
from q3edge.pipeline.measure.identity import identity_of
from q3edge.pipeline.measure.measurement import MeasurementOptions, here
from q3edge.pipeline.measure.measurement_cache import cached_measurement
from q3edge.pipeline.measure.speed import baseline_speed
from q3edge.report.content import Speed, Variant


def measure_baseline(baseline: Baseline, measuring: MeasurementOptions) -> Variant:
    """Measure what a report says about one baseline of the reference. ResourceError: its library is not installed.

    Baselines are only evaluated teacher-forced, whatever `measuring` asks of artifacts: they have no decoder.
    """
    assert measuring.reference is not None, "a baseline is made from the reference"
    baseline.check()
    selection = Selection(measuring.areas, measuring.limit)
    suites = selection.apply(measuring.suites or built_in_suites())
    packages = (baseline.package, "torch", "numpy", "tokenizers")
    with open_float_model(measuring.reference) as checkpoint:
        state = InputState(checkpoint.folders)
        reference = (measuring.reference, checkpoint.digest())
        identity = identity_of((baseline.name, ""), reference, suites, selection, None, packages)
        scorecard = cached_measurement(
            Scorecard,
            lambda: evaluate_baseline(
                partial(BaselineDecoder, baseline, checkpoint), identity, checkpoint, suites, measuring, state
            ),
            asdict,
            cache=measuring.cache,
            identity=asdict(identity),
        )
        speed = None
        if measuring.speed:
            speed = cached_measurement(
                Speed,
                lambda: baseline_speed(baseline, checkpoint, measuring.threads),
                asdict,
                cache=measuring.cache,
                baseline=baseline.name,
                reference=identity.reference_digest,
                versions=dict(identity.versions),
                **here(measuring.threads, ONNXRUNTIME),
            )
        weights = count_weights(checkpoint.config)
        size = baseline.model_bytes(checkpoint.config)
    return Variant(
        name=baseline.name,
        kind="baseline",
        digest=identity.reference_digest,
        model_bytes=size,
        bits_per_weight=8 * size / weights,
        formats=baseline.formats,
        method=f"{baseline.package} {identity.versions[baseline.package]}",
        scorecard=scorecard,
        speed=speed,
        versions=identity.versions,
        missing=("answers in its own words were not generated: a baseline has no decoder",) if measuring.asking else (),
    )
