"""Evaluation of an artifact against its float model or another artifact, teacher-forced on suites."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import InputState, artifact_digest, folder_name
from q3edge.checkpoint import open_float_model
from q3edge.checkpoint.hub import parts_of, resolve_model
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError, resumable
from q3edge.evaluation.answers.budgets import require_thinking
from q3edge.evaluation.cache import EvaluationCache, cache_folder, cache_key
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.streams import ComparedDecoder, ComparedModel
from q3edge.evaluation.scorecard.assemble import Identity, assemble, judged_passages
from q3edge.evaluation.scorecard.examples import text_before, worst_places
from q3edge.evaluation.scorecard.passages import Encoded, encode_suites, passages_digest
from q3edge.evaluation.scorecard.reading_journal import ReadingJournal
from q3edge.evaluation.scorecard.scorecard import Scorecard
from q3edge.evaluation.scorecard.teacher_forced import MAX_WORKERS, ReadingRun, read_all
from q3edge.evaluation.suites.selection import Selection
from q3edge.evaluation.suites.suite import Suite
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.evaluation.validation.checks import chooses_fewer, require_same_architecture
from q3edge.evaluation.validation.dead_matrices import check_dead_matrices
from q3edge.evaluation.validation.results import CheckResult
from q3edge.evaluation.validation.routing import ROUTED_TEXTS, check_routing, compare_routing
from q3edge.kernels.choice import facts_of_used
from q3edge.machine.cpu import default_threads
from q3edge.pipeline.measure.answers import compare_answers, compare_budgets
from q3edge.pipeline.measure.identity import identity_of
from q3edge.pipeline.measure.measurement import AnswerOptions, here, is_onnx_artifact, require_artifact
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.loader import open_graph
from q3edge.runtime.text.tokenizer import Tokenizer

_PACKAGES = ("numpy", "onnxruntime", "tokenizers", "torch")


def evaluate(
    folder: Path,
    reference: str,
    suites: Sequence[Suite] | None = None,
    *,
    areas: Sequence[str] | None = None,
    limit: int | None = None,
    asking: AnswerOptions | None = None,
    threads: int | None = None,
    kernels: str | None = None,
    use_cache: bool = True,
) -> Scorecard:
    """Compare the artifact in `folder` with `reference`, a float MODEL (folder or hub id) or another artifact's folder.

    suites None: the built-in ones. areas None: all. limit: of each suite at most so many questions, and so many windows
    of text (None: all). asking: both models also generate answers, and these decide the scores of items with a
    right answer; with thinking budgets the artifact answers once more for each. kernels: of artifacts, as for
    `Decoder`. What was measured before, also by a killed run, comes from the cache unless `use_cache` is false. A
    failed check is in the scorecard, not raised.
    UsageError: an area that no suite has, or budgets for a model without thinking. InputError: a folder is broken or
    changes while it is read, or their architectures differ. ValidationError: no item had finite logits. ResourceError:
    the cache cannot be written.
    """
    start = time.perf_counter()
    require_artifact(folder, reference, "eval")
    selection = Selection(None if areas is None else tuple(areas), limit)
    chosen = selection.apply(built_in_suites() if suites is None else suites)
    threads = threads or default_threads()
    workers = min(threads, MAX_WORKERS)
    threads_of_session = threads - workers + 1  # every worker that calls it is one of its threads, too
    checked = open_graph(folder, afresh=True)
    decoder = Decoder(folder, threads=threads_of_session, kernels=kernels, checked=checked)
    cache = EvaluationCache(cache_folder()) if use_cache else None
    with _open_reference(reference, threads_of_session, kernels, cache) as opened:
        require_same_architecture(folder, decoder.config, opened.config)
        candidate = folder_name(folder), artifact_digest(folder)  # not where it lies
        used = {**facts_of_used(decoder.kernels), **opened.kernels}
        identity = identity_of(candidate, (reference, opened.digest), chosen, selection, asking, _PACKAGES, used)
        inputs = _EvaluationInputs(identity, chosen)
        tokenizer = Tokenizer.load(folder, decoder.config.vocab_size)
        budgets = asking.thinking_budgets if asking else ()
        if budgets:
            require_thinking(folder, tokenizer)
        key = inputs.key(**({"timed_on": here(threads, kernels)} if budgets else {}))
        if cache and (cached := cache.scorecard(key)):
            progress.note("evaluated before: these results are the cache's (--no-cache evaluates again)")
            return replace(cached, artifact=identity.artifact, reference=identity.reference)
        context = decoder.config.max_position_embeddings
        encoded = encode_suites(folder, tokenizer, context, chosen, limit)
        with resumable(lambda: use_cache), _journal(cache, inputs, encoded, opened.state) as journal:
            run = read_all(encoded.passages, opened.model, ComparedDecoder(decoder), journal, workers=workers)
        checks = (
            check_dead_matrices(folder, decoder.config, opened.weights),
            *_routing(folder, decoder.config, opened.weights, encoded, threads, kernels),
        )
        read = _Read(tokenizer, encoded, run, checks)
    read_seconds = time.perf_counter() - start
    with resumable(lambda: use_cache):
        scorecard = _scored(folder, opened, inputs, read, asking, threads, kernels, cache)
    reused = opened.model.cached_tokens if isinstance(opened.model, FloatReference) else 0
    timing = _timing(run, read_seconds, reused)
    scorecard = replace(scorecard, seconds=time.perf_counter() - start, timing=timing)
    if cache:
        cache.save_scorecard(key, scorecard)
    if journal:
        journal.discard()
    return scorecard


@dataclass(frozen=True, slots=True)
class _OpenReference:
    """Opened reference: its folder, weights (the folder, of an artifact), logits, architecture, digest and state.

    kernels: setting of the scorecard that says them; none of a float model.
    """

    folder: Path
    weights: WeightSource | Path
    model: ComparedModel
    config: Qwen3Config
    digest: str
    state: InputState
    kernels: Mapping[str, str]


@contextmanager
def _open_reference(
    reference: str, threads: int, kernels: str | None, cache: EvaluationCache | None
) -> Iterator[_OpenReference]:
    base, adapter = parts_of(reference)
    folder = resolve_model(base)
    if adapter is None and is_onnx_artifact(folder):
        state = InputState((folder,))
        checked = open_graph(folder, afresh=True)
        decoder = Decoder(folder, threads=threads, kernels=kernels, checked=checked)
        used = {"reference_kernels": decoder.kernels}
        model = ComparedDecoder(decoder)
        yield _OpenReference(folder, folder, model, decoder.config, artifact_digest(folder), state, used)
        return
    with open_float_model(reference) as checkpoint:
        state = InputState(checkpoint.folders)
        digest = checkpoint.digest()
        float_model = FloatReference(checkpoint, digest, cache, state.check_unchanged)
        yield _OpenReference(checkpoint.folder, checkpoint, float_model, checkpoint.config, digest, state, {})


@dataclass(frozen=True, slots=True)
class _EvaluationInputs:
    """Inputs that decide the result of an evaluation: both models, settings, versions, and the items of all suites."""

    identity: Identity
    suites: tuple[Suite, ...]

    def key(self, **more: Any) -> str:
        """Key of the cache; `more`: further inputs of the content. Folder names are not part of the key."""
        nameless = replace(self.identity, artifact="", reference="")
        items = hashlib.sha256(repr([suite.items for suite in self.suites]).encode()).hexdigest()
        return cache_key(identity=asdict(nameless), items=items, **more)


@dataclass(frozen=True, slots=True)
class _Read:
    """What both models made of all suites, teacher-forced, and the checks of the artifact's weights and routers."""

    tokenizer: Tokenizer
    encoded: Encoded
    run: ReadingRun
    checks: tuple[CheckResult, ...]


def _routing(
    folder: Path,
    config: Qwen3Config,
    reference: WeightSource | Path,
    encoded: Encoded,
    threads: int,
    kernels: str | None,
) -> tuple[CheckResult, ...]:
    """Compare how a mixture of experts is routed with a float model, on some passages; nothing for other models."""
    if isinstance(reference, Path) or reference.config.moe is None:
        return ()
    checked, passages = open_graph(folder), encoded.passages
    windows = [passage.window for passage in passages[:: -(-len(passages) // ROUTED_TEXTS)]]
    routing = compare_routing(folder, checked, config, reference, windows, threads, kernels)
    is_float = not any(rule["scheme"] for rule in checked.manifest.recipe["rules"])
    return (check_routing(routing, is_exact=is_float and not chooses_fewer(config, reference.config)),)


def _scored(
    folder: Path,
    opened: _OpenReference,
    inputs: _EvaluationInputs,
    read: _Read,
    asking: AnswerOptions | None,
    threads: int,
    kernels: str | None,
    cache: EvaluationCache | None,
) -> Scorecard:
    """Score what was read, and answers that are generated now if there are options for them."""
    answers = None
    if asking is not None:
        beginnings = [text_before(place) for place in worst_places(judged_passages(read.encoded, read.run))]
        answers = compare_answers(
            folder,
            opened.folder,
            opened.digest,
            inputs.suites,
            asking,
            beginnings,
            threads=threads,
            kernels=kernels,
            cache=cache,
        )
    scorecard = assemble(inputs.identity, read.encoded, read.run, read.tokenizer, read.checks, answers)
    if asking is None or not asking.thinking_budgets:
        return scorecard
    found, notices = compare_budgets(folder, inputs.suites, asking, threads=threads, kernels=kernels, cache=cache)
    return replace(scorecard, thinking_budgets=found, notices=(*scorecard.notices, *notices))


@contextmanager
def _journal(
    cache: EvaluationCache | None, inputs: _EvaluationInputs, encoded: Encoded, reference: InputState
) -> Iterator[ReadingJournal | None]:
    """Journal of the evaluation, removed if the reference changed while it was read."""
    if cache is None:
        yield None
        reference.check_unchanged()
        return
    key = inputs.key(passages=passages_digest(encoded.passages))
    with ReadingJournal(cache.journal_file(key)) as journal:
        try:
            yield journal
        finally:
            try:
                reference.check_unchanged()
            except InputError:
                journal.discard()
                raise


def _timing(run: ReadingRun, seconds: float, reused: int) -> dict[str, float]:
    """Timing of the reading: seconds by model and in all; tokens read in this run, tokens with cached hidden states.

    total_over_models: only where nothing was cached or resumed; otherwise the models' seconds are only a part.
    """
    timing: dict[str, float] = {
        **{f"{name}_seconds": spent for name, spent in run.seconds.items()},
        "total_seconds": seconds,
        "tokens": float(run.tokens),
        "cached_tokens": float(reused),
        "resumed_items": float(run.resumed),
    }
    if not reused and not run.resumed:
        timing["total_over_models"] = seconds / sum(run.seconds.values())
    return timing
