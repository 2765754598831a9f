"""The generated mode: models generate an answer to every item, and the answers are judged and compared.

Extraction is in `number_match` and `programs`, writing behaviour in `behaviour`.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from q3edge import progress
from q3edge.artifact import Notice, artifact_digest
from q3edge.evaluation.answers.behaviour import GeneratedAnswer, behaviour
from q3edge.evaluation.answers.number_match import is_right
from q3edge.evaluation.answers.programs import program, standing
from q3edge.evaluation.cache import ADVICE, cache_key
from q3edge.evaluation.distance.statistics import Bootstrap, Estimate
from q3edge.evaluation.plain_values import from_plain
from q3edge.evaluation.sandbox.sandbox import Sandbox
from q3edge.evaluation.scorecard.generated_comparison import GeneratedComparison
from q3edge.evaluation.scorecard.scorecard import LostAnswer
from q3edge.evaluation.scorecard.slices import AreaScore, accuracy_scores, area_score
from q3edge.evaluation.suites.suite import Item, Suite
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message
from q3edge.storage.json_lines import JsonLines

_TEXT = "texts are read, not answered"
_TOO_LONG = "questions longer than the model's context were not asked"
_NOT_RUN = "programs were written but not run, so not judged (--allow-code runs them)"
_UNFIT = "programs were not judged: their test failed before it called them, or gives them more than plain values"
_CODES = {
    _TEXT: "texts-not-generated", _TOO_LONG: "items-too-long", _NOT_RUN: "programs-not-run",
    _UNFIT: "tests-unfit",
}  # fmt: skip
_COMPLETE = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}\n```"
_CONTINUED = 32  # tokens: enough to show how a text continues
_NEXT_QUESTION = "\nQuestion:"  # a model without a template continues with questions of its own


def answer_all(
    model: Model,
    items: Sequence[Item],
    *,
    max_new_tokens: int,
    seed: int | None = None,
    thinking_budget: int | None = None,
    sandbox: Sandbox | None = None,
    journal: Path | None = None,
    timed_on: Mapping[str, str] | None = None,
) -> list[GeneratedAnswer]:
    """Answer every item and judge the answers; greedily, or with a `seed` as the checkpoint samples.

    sandbox None: programs are written, but not run. timed_on: facts of the machine, where the answers' seconds count:
    then those of another one are not taken from the journal. An answer that the file `journal` has from the same model
    and settings is not generated again; each new one is appended to it before the next item begins.
    ResourceError: the journal cannot be written. InputError, UsageError: those of `q3edge.runtime.model.Model.chat`.
    """
    greedy = 0.0 if seed is None else None
    settings = model.settings(
        max_new_tokens=max_new_tokens, temperature=greedy, seed=seed, thinking_budget=thinking_budget
    )
    digest, found = artifact_digest(model.folder), []
    with _AnswerJournal(journal) as answers, progress.task("answers", len(items)) as advance:
        for item in items:
            key = cache_key(
                model=digest, kind=item.kind, prompt=item.prompt, thinking=item.thinking,
                max_new_tokens=max_new_tokens, seed=seed, thinking_budget=thinking_budget, timed_on=timed_on,
            )  # fmt: skip
            written = answers.load(key)
            if written is None:
                written = _write(model, item, settings)
                answers.append(key, written)
            found.append(_judge(item, written, sandbox))
            advance(1)
    return found


def continuation(model: Model, ids: Sequence[int]) -> str:
    """Greedy continuation of these token ids, at most 32 tokens; empty where they fill the context."""
    if _too_long(model, ids):
        return ""
    settings = model.settings(max_new_tokens=_CONTINUED, temperature=0.0)
    return model.generate(ids, settings).text


def left_out(generated: Sequence[GeneratedAnswer]) -> tuple[Notice, ...]:
    """Count the items without a judgement, one notice for each reason."""
    reasons = Counter(found.reason for found in generated if found.correct is None)
    return tuple(Notice(_CODES[reason], count, reason) for reason, count in reasons.items())


def compare_generated(
    reference: Sequence[GeneratedAnswer], candidate: Sequence[GeneratedAnswer], suites: Sequence[Suite]
) -> GeneratedComparison:
    """Compare both models' answers to all items of the suites, in their order; recovery is paired, in percent.

    Equal texts get one judgement: a program near its time limit must not make a model differ from itself.
    """
    asked = [(suite.name, item) for suite in suites for item in suite.items]
    items = [item for _, item in asked]
    pairs = [
        _Pair(suite, item, by_reference, _judged_alike(by_candidate, by_reference))
        for (suite, item), by_reference, by_candidate in zip(asked, reference, candidate, strict=True)
    ]
    judged = [pair for pair in pairs if pair.reference.correct is not None and pair.candidate.correct is not None]
    return GeneratedComparison(
        areas=_scores(judged, lambda pair: pair.item.area),
        languages={name: score.slice for name, score in _scores(judged, lambda pair: pair.item.language).items()},
        suites={name: score.slice for name, score in _scores(judged, lambda pair: pair.suite).items()},
        reference_behaviour=behaviour(items, reference),
        candidate_behaviour=behaviour(items, candidate),
        length_ratio=_length_ratio(pairs),
        lost=tuple(_lost(pair) for pair in judged if pair.reference.correct and not pair.candidate.correct),
        notices=left_out([pair.reference if pair.reference.correct is None else pair.candidate for pair in pairs]),
    )


def _write(model: Model, item: Item, settings: GenerationSettings) -> GeneratedAnswer:
    if item.kind == "text":
        return GeneratedAnswer("", "", "", 0, None, None, _TEXT)
    if model.template is None:
        return _continue(model, item, settings)
    prompt = _COMPLETE.format(item.prompt) if item.kind == "code" else item.prompt
    messages: list[Message] = [{"role": "user", "content": prompt}]
    if _too_long(model, model.encode_chat(messages, thinking=item.thinking)):
        return GeneratedAnswer("", "", "", 0, None, None, _TOO_LONG)
    begun = time.perf_counter()
    said = model.chat(messages, settings, thinking=item.thinking)
    return GeneratedAnswer(
        said.text, said.thinking, said.answer, len(said.token_ids), said.stats.finish_reason, None,
        stopped=said.stats.forced_tokens > 0, seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _continue(model: Model, item: Item, settings: GenerationSettings) -> GeneratedAnswer:
    """Answer without a chat template: the model continues the program, or "Question: ... Answer:"."""
    code = item.kind == "code"
    ids = model.tokenizer.encode_text(item.prompt if code else f"Question: {item.prompt}\nAnswer:")
    if _too_long(model, ids):
        return GeneratedAnswer("", "", "", 0, None, None, _TOO_LONG)
    said = model.generate(ids, settings)
    answer = said.text if code else said.text.partition(_NEXT_QUESTION)[0]
    return GeneratedAnswer(said.text, "", answer, len(said.token_ids), said.stats.finish_reason, None)


def _too_long(model: Model, prompt_ids: Sequence[int]) -> bool:
    return len(prompt_ids) >= model.context


def _judge(item: Item, found: GeneratedAnswer, sandbox: Sandbox | None) -> GeneratedAnswer:
    if found.finish_reason is None:
        return found
    if item.kind != "code":
        return replace(found, correct=is_right(item, found.answer))
    if sandbox is None:
        return replace(found, reason=_NOT_RUN)
    known = standing(item.prompt, item.entry_point)
    outcome = sandbox.judge(program(item, found.answer), test=item.test, entry_point=item.entry_point, prompt=known)
    return replace(found, correct=outcome.passed, reason=_UNFIT if outcome.passed is None else outcome.reason)


class _AnswerJournal:
    """Journal of generated answers by key, without judgements; without a path, nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._lines = None if path is None else JsonLines(path, ADVICE)
        self._cached: dict[str, GeneratedAnswer] = {}

    def __enter__(self) -> Self:
        if self._lines is not None:
            self._lines.__enter__()
            self._cached = {raw["key"]: from_plain(GeneratedAnswer, raw["written"]) for raw in self._lines.values()}
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._lines is not None:
            self._lines.close()

    def load(self, key: str) -> GeneratedAnswer | None:
        """Cached answer of `key`; None if there is none."""
        return self._cached.get(key)

    def append(self, key: str, written: GeneratedAnswer) -> None:
        """Make one answer durable; ResourceError: the disk is full."""
        if self._lines is not None:
            self._lines.append({"key": key, "written": asdict(written)})


@dataclass(frozen=True, slots=True)
class _Pair:
    suite: str
    item: Item
    reference: GeneratedAnswer
    candidate: GeneratedAnswer


def _judged_alike(candidate: GeneratedAnswer, reference: GeneratedAnswer) -> GeneratedAnswer:
    if candidate.text != reference.text or None in (candidate.correct, reference.correct):
        return candidate
    return replace(candidate, correct=reference.correct, reason=reference.reason)


def _scores(judged: Sequence[_Pair], key: Callable[[_Pair], str]) -> dict[str, AreaScore]:
    """Scores for every value of `key`, in order of appearance."""
    names = dict.fromkeys(map(key, judged))
    return {name: _score(name, [pair for pair in judged if key(pair) == name]) for name in names}


def _score(name: str, judged: Sequence[_Pair]) -> AreaScore:
    by_reference = [bool(pair.reference.correct) for pair in judged]
    by_candidate = [bool(pair.candidate.correct) for pair in judged]
    seed = zlib.crc32(name.encode())  # areas vary independently of each other
    return area_score(len(judged), "accuracy", "questions", accuracy_scores(by_reference, by_candidate, seed))


def _length_ratio(pairs: Sequence[_Pair]) -> Estimate | None:
    """Ratio of the mean lengths over the items that both were asked; None where the reference wrote nothing."""
    both = [pair for pair in pairs if pair.reference.finish_reason and pair.candidate.finish_reason]
    if not both:
        return None
    tokens = np.array([(pair.candidate.tokens, pair.reference.tokens) for pair in both], np.float64)
    ratio = Bootstrap(np.arange(len(both))).resampled_ratio(tokens[:, 0], tokens[:, 1])
    return ratio.estimate() if ratio else None


def _lost(pair: _Pair) -> LostAnswer:
    return LostAnswer(
        pair.suite, pair.item.id, pair.item.prompt, pair.item.final or pair.item.answer,
        pair.reference.answer, pair.candidate.answer or pair.candidate.text,
    )  # fmt: skip
