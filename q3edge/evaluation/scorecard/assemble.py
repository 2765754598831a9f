"""Readings of a run -> its `Scorecard`, for artifacts and baselines alike. The caller adds the times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from q3edge.errors import ValidationError
from q3edge.evaluation.distance.statistics import summarize
from q3edge.evaluation.scorecard.examples import worst_examples, worst_places
from q3edge.evaluation.scorecard.generated_comparison import GeneratedComparison
from q3edge.evaluation.scorecard.passages import Encoded
from q3edge.evaluation.scorecard.scorecard import Scorecard, Slice
from q3edge.evaluation.scorecard.slices import AreaScore, ReadPassage, histogram, kind_slices, recovery_score, slices
from q3edge.evaluation.scorecard.teacher_forced import ReadingRun
from q3edge.evaluation.validation.breakage import check_finite, check_perplexity
from q3edge.evaluation.validation.results import CheckResult
from q3edge.runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a comparison: both models, suites, settings and versions; the fields are those of `Scorecard`."""

    artifact: str
    artifact_digest: str
    reference: str
    reference_digest: str
    suite_digests: Mapping[str, str]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


def judged_passages(encoded: Encoded, run: ReadingRun) -> list[ReadPassage]:
    """Passages of which both models' logits were finite."""
    return [ReadPassage(passage, reading) for passage, reading in zip(encoded.passages, run.readings) if reading]


def assemble(
    identity: Identity,
    encoded: Encoded,
    run: ReadingRun,
    tokenizer: Tokenizer,
    checks: tuple[CheckResult, ...] = (),
    answers: GeneratedComparison | None = None,
) -> Scorecard:
    """Assemble the scorecard of a teacher-forced run, its seconds 0; `checks`: of the artifact itself, shown before
    those of its logits. With `answers`, answered items are scored by them. ValidationError: no item had finite logits.
    """
    passages = judged_passages(encoded, run)
    finite = check_finite(len(run.readings) - len(passages), len(run.readings))
    if not passages:
        raise ValidationError(f"{identity.artifact}: {finite.reason}")
    languages, suites = (_unsampled(found) for found in ((answers.languages, answers.suites) if answers else ({}, {})))
    areas = slices(passages, lambda passage: passage.item.area, answers.areas if answers else None)
    overall = summarize([found.reading.metrics for found in passages])
    recovery, weights, not_counted = recovery_score(areas)
    return Scorecard(
        mode="generated" if answers else "teacher-forced",
        artifact=identity.artifact,
        artifact_digest=identity.artifact_digest,
        reference=identity.reference,
        reference_digest=identity.reference_digest,
        suite_digests=identity.suite_digests,
        settings=identity.settings,
        recovery=recovery,
        area_weights=weights,
        areas=_plain(areas),
        kinds={} if answers else _plain(kind_slices(passages)),
        languages=_plain(slices(passages, lambda passage: passage.item.language, languages)),
        suites=_plain(slices(passages, lambda passage: passage.suite, suites)),
        overall=overall,
        histogram=histogram(passages),
        reference_behaviour=answers.reference_behaviour if answers else None,
        candidate_behaviour=answers.candidate_behaviour if answers else None,
        worst=worst_examples(worst_places(passages), tokenizer, answers.continuations if answers else ()),
        checks=(*checks, finite, check_perplexity(overall)),
        versions=identity.versions,
        seconds=0.0,
        notices=(*encoded.notices, *not_counted, *(answers.notices if answers else ())),
        lost=answers.lost if answers else (),
        length_ratio=answers.length_ratio if answers else None,
    )


def _unsampled(answered: Mapping[str, Slice]) -> dict[str, AreaScore]:
    return {name: AreaScore(found, None) for name, found in answered.items()}


def _plain(scored: Mapping[str, AreaScore]) -> dict[str, Slice]:
    return {name: found.slice for name, found in scored.items()}
