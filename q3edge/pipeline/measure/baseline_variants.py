"""Measurement of a baseline like an artifact: the same suites, the same scores, and the speed of its products."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from q3edge.architecture.tensors import count_weights
from q3edge.artifact import InputState
from q3edge.checkpoint import Checkpoint, open_float_model
from q3edge.evaluation.baselines import Baseline, BaselineDecoder
from q3edge.evaluation.cache import EvaluationCache, cache_folder
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.streams import ComparedDecoder
from q3edge.evaluation.scorecard.assemble import Identity, assemble
from q3edge.evaluation.scorecard.passages import encode_suites
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.scorecard.teacher_forced import read_all
from q3edge.evaluation.suites.selection import Selection
from q3edge.evaluation.suites.suite import Suite
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.pipeline.measure.identity import identity_of
from q3edge.pipeline.measure.measurement import MeasurementOptions, here
from q3edge.pipeline.measure.measurement_cache import cached_measurement
from q3edge.pipeline.measure.speed import baseline_speed
from q3edge.report.content import Speed, Variant
from q3edge.runtime.text.tokenizer import Tokenizer


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
            lambda: _evaluate(baseline, identity, checkpoint, suites, measuring, state),
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
                **here(measuring.threads),
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


def _evaluate(
    baseline: Baseline,
    identity: Identity,
    checkpoint: Checkpoint,
    suites: Sequence[Suite],
    measuring: MeasurementOptions,
    state: InputState,
) -> Scorecard:
    """Evaluate the baseline teacher-forced against the float model, with the checkpoint's own tokenizer."""
    start = time.perf_counter()
    cache = EvaluationCache(cache_folder()) if measuring.cache else None
    reference = FloatReference(checkpoint, identity.reference_digest, cache, state.check_unchanged)
    tokenizer = Tokenizer.load(checkpoint.side_folder, checkpoint.config.vocab_size)
    context = checkpoint.config.context_length
    encoded = encode_suites(checkpoint.side_folder, tokenizer, context, suites, measuring.limit)
    decoder = BaselineDecoder(baseline, checkpoint, [passage.window for passage in encoded.passages])
    run = read_all(encoded.passages, reference, ComparedDecoder(decoder), None)
    state.check_unchanged()
    return replace(assemble(identity, encoded, run, tokenizer), seconds=time.perf_counter() - start)
