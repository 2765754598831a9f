"""Scores of a baseline: its decoder is evaluated teacher-forced against the float model that it is made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from q3edge.artifact import InputState
from q3edge.checkpoint import Checkpoint
from q3edge.evaluation.cache import EvaluationCache, cache_folder
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.streams import CausalDecoder, ComparedDecoder
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.scorecard.assemble import Identity, assemble
from q3edge.evaluation.scorecard.passages import encode_suites
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.scorecard.teacher_forced import read_all
from q3edge.evaluation.suites.suite import Suite
from q3edge.pipeline.measure.measurement import MeasurementOptions
from q3edge.runtime.text.tokenizer import Tokenizer


def evaluate_baseline(
    make_decoder: Callable[[Sequence[Window]], CausalDecoder],
    identity: Identity,
    checkpoint: Checkpoint,
    suites: Sequence[Suite],
    measuring: MeasurementOptions,
    state: InputState,
) -> Scorecard:
    """Evaluate the decoder that is made for the windows to be read, with the checkpoint's own tokenizer.

    state: of the checkpoint's folders. InputError: they changed meanwhile.
    """
    start = time.perf_counter()
    cache = EvaluationCache(cache_folder()) if measuring.cache else None
    reference = FloatReference(checkpoint, identity.reference_digest, cache, state.check_unchanged)
    tokenizer = Tokenizer.load(checkpoint.side_folder, checkpoint.config.vocab_size)
    context = checkpoint.config.context_length
    encoded = encode_suites(checkpoint.side_folder, tokenizer, context, suites, measuring.limit)
    decoder = make_decoder([passage.window for passage in encoded.passages])
    run = read_all(encoded.passages, reference, ComparedDecoder(decoder), None)
    state.check_unchanged()
    return replace(assemble(identity, encoded, run, tokenizer), seconds=time.perf_counter() - start)
