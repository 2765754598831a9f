"""Comparison of answers that an artifact and its reference generate: the generated part of an evaluation.

A float checkpoint answers as a float ONNX model, exported once into the cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from q3edge import progress
from q3edge.artifact import MODEL_FILE, Notice, artifact_digest, is_untouched
from q3edge.evaluation.answers.behaviour import GeneratedAnswer
from q3edge.evaluation.answers.budgets import answer_by_budget
from q3edge.evaluation.answers.generated import (
    answer_all,
    compare_generated,
    continuation,
)
from q3edge.evaluation.cache import ADVICE, EvaluationCache, cache_key
from q3edge.evaluation.sandbox.sandbox import Sandbox
from q3edge.evaluation.scorecard.generated_comparison import GeneratedComparison
from q3edge.evaluation.scorecard.thinking_budgets import ThinkingBudgets
from q3edge.evaluation.suites.suite import Suite
from q3edge.kernels.choice import facts_of_used
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.measure.measurement import AnswerOptions, here, is_onnx_artifact
from q3edge.runtime.model import Model
from q3edge.storage.locks import output_lock
from q3edge.storage.removal import remove_path
from q3edge.storage.whole_files import scratch_folder, writable


def compare_answers(
    folder: Path,
    reference: Path,
    reference_digest: str,
    suites: Sequence[Suite],
    asking: AnswerOptions,
    beginnings: Sequence[Sequence[int]] = (),
    *,
    threads: int | None,
    kernels: str | None,
    cache: EvaluationCache | None,
) -> GeneratedComparison:
    """Let both models answer all items and continue `beginnings`, token ids. reference: a folder of either kind.

    ResourceError: programs are to be run and cannot be contained here, or the cache cannot be written.
    """
    sandbox = Sandbox.open() if asking.run_code else None

    def generate(artifact: Path) -> tuple[list[GeneratedAnswer], list[str]]:
        with Model.open(artifact, threads=threads, kernels=kernels) as model:
            answers = answer_all(
                model,
                [item for suite in suites for item in suite.items],
                max_new_tokens=asking.max_new_tokens,
                seed=asking.seed,
                sandbox=sandbox,
                journal=_journal(model, cache),
            )
            return answers, [continuation(model, ids) for ids in beginnings]

    with _artifact_for(reference, reference_digest, cache) as other:
        (by_reference, by_reference_continued), (by_candidate, by_candidate_continued) = (
            generate(other),
            generate(folder),
        )
    found = compare_generated(by_reference, by_candidate, suites)
    return replace(found, continuations=tuple(zip(by_reference_continued, by_candidate_continued)))


def compare_budgets(
    folder: Path,
    suites: Sequence[Suite],
    asking: AnswerOptions,
    *,
    threads: int,
    kernels: str | None,
    cache: EvaluationCache | None,
) -> tuple[ThinkingBudgets | None, tuple[Notice, ...]]:
    """Let the artifact answer the suites' questions with each thinking budget; errors as `answer_by_budget`."""
    with Model.open(folder, threads=threads, kernels=kernels) as model:
        return answer_by_budget(
            model,
            suites,
            asking.thinking_budgets,
            max_new_tokens=asking.max_new_tokens,
            timed_on=here(threads, kernels),
            seed=asking.seed,
            sandbox=Sandbox.open() if asking.run_code else None,
            journal=_journal(model, cache),
        )


def _journal(model: Model, cache: EvaluationCache | None) -> Path | None:
    """File with the answers of an artifact by the kernels that it has."""
    if cache is None:
        return None
    used = facts_of_used(model.decoder.kernels)
    return cache.answers_file(cache_key(artifact=artifact_digest(model.folder), **used))


@contextmanager
def _artifact_for(reference: Path, digest: str, cache: EvaluationCache | None) -> Iterator[Path]:
    """ONNX artifact that answers for the reference: itself, or its float export."""
    if is_onnx_artifact(reference):
        yield reference
        return
    if cache is None:
        with scratch_folder("q3edge-float-") as folder:
            export_artifact(str(reference), folder / "float", as_float=True)
            yield folder / "float"
        return
    target = cache.float_folder(digest)
    with output_lock(target, wait=True):  # another evaluation may be exporting the same model
        if not _is_kept(target):
            export_artifact(str(reference), target, as_float=True, overwrite=True)
    yield target


def _is_kept(target: Path) -> bool:
    """Tell whether a sound export is there; a damaged one is removed."""
    if not os.path.lexists(target):
        return False
    if is_untouched(target) and (target / MODEL_FILE).is_file():
        return True
    progress.note("the float model in the cache is damaged, it is exported again")
    with writable(target, ADVICE):
        remove_path(target)
    return False
