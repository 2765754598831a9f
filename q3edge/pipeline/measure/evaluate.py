"""An artifact against its float model, or against another artifact, on suites that both models read token by token."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import artifact_digest
from q3edge.checkpoint import open_float_model
from q3edge.checkpoint.hub import resolve_model
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
from q3edge.evaluation.validation.checks import require_same_architecture
from q3edge.evaluation.validation.dead_matrices import check_dead_matrices
from q3edge.machine.cpu import default_threads
from q3edge.pipeline.measure.answers import compare_answers
from q3edge.pipeline.measure.identity import identity_of
from q3edge.pipeline.measure.measurement import AnswerOptions, is_onnx_artifact
from q3edge.runtime.session.decoder import Decoder
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
    use_cache: bool = True,
) -> Scorecard:
    """Compare the artifact in `folder` with `reference`, a float MODEL (folder or hub id) or another artifact's folder.

    suites None: the built-in ones. areas None: all. limit: of each suite at most so many questions, and so many windows
    of text (None: all). asking: both models also answer in their own words, and answers decide the scores where there
    are right ones. What was done before, or before a kill, comes from the cache unless `use_cache` is false.
    A failed check is in the scorecard, not raised. UsageError: an area that no suite has. InputError: a folder is
    broken, or their architectures differ. ValidationError: no item had finite logits. ResourceError: the cache cannot
    be written.
    """
    start = time.perf_counter()
    selection = Selection(None if areas is None else tuple(areas), limit)
    chosen = selection.apply(built_in_suites() if suites is None else suites)
    threads = threads or default_threads()
    workers = min(threads, MAX_WORKERS)
    threads_of_session = threads - workers + 1  # every worker that calls it is one of its threads, too
    decoder = Decoder(folder, threads=threads_of_session)
    cache = EvaluationCache(cache_folder()) if use_cache else None
    with _opened(reference, threads_of_session, cache) as opened:
        require_same_architecture(folder, decoder.config, opened.config)
        candidate = folder.resolve().name, artifact_digest(folder)  # where it lies says nothing about it
        identity = identity_of(candidate, (reference, opened.digest), chosen, selection, asking, _PACKAGES)
        subject = _Subject(identity, chosen)
        if cache and (known := cache.scorecard(subject.key())):
            progress.note("evaluated before: these results are the cache's (--no-cache evaluates again)")
            return replace(known, artifact=subject.identity.artifact, reference=subject.identity.reference)
        tokenizer = Tokenizer.load(folder, decoder.config.vocab_size)
        context = decoder.config.max_position_embeddings
        encoded = encode_suites(folder, tokenizer, context, chosen, limit)
        with _journal(cache, subject, encoded) as journal:
            run = read_all(encoded.passages, opened.model, ComparedDecoder(decoder), journal, workers=workers)
    read_seconds = time.perf_counter() - start
    answers = None
    if asking is not None:
        beginnings = [text_before(place) for place in worst_places(judged_passages(encoded, run))]
        answers = compare_answers(
            folder, resolve_model(reference), opened.digest, chosen, asking, beginnings,
            threads=threads, cache=cache,
        )  # fmt: skip
    dead = check_dead_matrices(folder, decoder.config)
    scorecard = assemble(subject.identity, encoded, run, tokenizer, (dead,), answers)
    reused = opened.model.cached_tokens if isinstance(opened.model, FloatReference) else 0
    timing = _timing(run, read_seconds, reused)
    scorecard = replace(scorecard, seconds=time.perf_counter() - start, timing=timing)
    if cache:
        cache.save_scorecard(subject.key(), scorecard)
    if journal:
        journal.discard()
    return scorecard


@dataclass(frozen=True, slots=True)
class _Opened:
    """The reference: its logits, architecture and digest."""

    model: ComparedModel
    config: Qwen3Config
    digest: str


@contextmanager
def _opened(reference: str, threads: int, cache: EvaluationCache | None) -> Iterator[_Opened]:
    folder = resolve_model(reference)
    if is_onnx_artifact(folder):
        decoder = Decoder(folder, threads=threads)
        yield _Opened(ComparedDecoder(decoder), decoder.config, artifact_digest(folder))
        return
    with open_float_model(folder) as checkpoint:
        digest = checkpoint.digest()
        yield _Opened(FloatReference(checkpoint, digest, cache), checkpoint.config, digest)


@dataclass(frozen=True, slots=True)
class _Subject:
    """Who is compared with whom, and on what: all that decides the result."""

    identity: Identity
    suites: tuple[Suite, ...]

    def key(self, **more: Any) -> str:
        """Of the cache; `more`: what besides decides the content. Names of folders decide nothing."""
        nameless = replace(self.identity, artifact="", reference="")
        items = hashlib.sha256(repr([suite.items for suite in self.suites]).encode()).hexdigest()
        return cache_key(identity=asdict(nameless), items=items, **more)


@contextmanager
def _journal(cache: EvaluationCache | None, subject: _Subject, encoded: Encoded) -> Iterator[ReadingJournal | None]:
    if cache is None:
        yield None
        return
    key = subject.key(passages=passages_digest(encoded.passages))
    with ReadingJournal(cache.journal_file(key)) as journal:
        yield journal


def _timing(run: ReadingRun, seconds: float, reused: int) -> dict[str, float]:
    """Seconds of reading, by model and in all; tokens read in this run, and those whose hidden states were cached.

    total_over_models: only where nothing was cached, for else it compares a whole with a part.
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
