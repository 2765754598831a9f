"""The whole flow on the embedded model: build float, int8, 4 bits and int2, evaluate each on held-out questions.

4 and 2 bits are calibrated on dialogues like those the model was trained on. int2 is no format to ship: it shows the
damage of too few bits.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.defaults import MAX_KL, demo_format
from q3edge.errors import UsageError
from q3edge.evaluation.answers.questions import AnswerReport, score_answers
from q3edge.evaluation.cache import EvaluationCache
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.suites.question_files import Question, read_questions
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.formats import FLOAT
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.quantization.recipe import Recipe
from q3edge.reference.parallel import torch_threads
from q3edge.runtime.model import Model
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.messages import Message
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.storage.whole_files import partial_folder, write_whole

DEMO_FILE = "demo.json"  # in the folder, which the next demo may then replace
_DENSE = "demo_model"  # its folder has the questions and dialogues of both models
_LONGEST_ANSWER = 128
_SHARES = {"knowledge": 17, "math": 30, "code": 32, "multilingual": 15, "safety": 6}  # of the model's curriculum
_QUICK = 5  # every fifth question
_SHOWN = ("knowledge-11", "math-31", "code-13")  # questions whose answers are shown, in --quick too


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One format of the embedded model.

    text_kl: mean KL on the build's text, the held-out questions with their answers. accuracy: the fraction of them that
    is answered exactly.
    """

    format: str
    model_bytes: int
    text_kl: Estimate
    accuracy: Estimate
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """A question with its right answer, and the answer that each format gave."""

    question: str
    right: str
    given: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Result of the demo: all rows, float first; answers to look at; and what follows, in words."""

    rows: tuple[DemoRow, ...]
    answers: tuple[DemoAnswer, ...]
    verdict: str
    questions: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self)


def run_demo(
    output: Path,
    *,
    threads: int | None = None,
    moe: bool = False,
    quick: bool = False,
    on_row: Callable[[DemoRow], None] = lambda _row: None,
) -> DemoResult:
    """Build and evaluate every format below `output`; models of an earlier demo there are replaced.

    threads: of torch and onnxruntime each (None: their defaults). moe: the embedded model with experts. quick: a fifth
    of the questions. on_row: called with each row as soon as it is known. UsageError: `output` holds anything else.
    """
    start = time.perf_counter()
    _claim(output)
    rows, reports = [], {}
    with (
        as_file(files("q3edge.data")) as data,
        torch_threads(threads),
        partial_folder(output / "float-states") as states,
    ):
        model, texts = data / ("demo_moe" if moe else _DENSE), data / _DENSE
        questions = _questions(texts, quick)
        demo = _Demo(
            model,
            texts / "calibration.jsonl",
            output,
            threads,
            questions,
            _transcripts(model, questions),
            EvaluationCache(states),
        )
        variants = _variants(moe)
        progress.note(f"{', '.join(variants)}: quantize, export, validate, answer {len(questions)} questions each ...")
        for name, recipe in variants.items():
            row, reports[name] = demo.build_and_evaluate(name, recipe)
            rows.append(row)
            on_row(row)
    return DemoResult(
        tuple(rows), _shown(questions, reports), verdict(rows), len(questions), time.perf_counter() - start
    )


def verdict(rows: Sequence[DemoRow]) -> str:
    """Say in words what the rows, float first, show: the smallest format that loses nothing, and what smaller ones do.

    A format loses nothing where its text KL is at most MAX_KL and its accuracy's interval reaches float's accuracy.
    """
    reference, *others = rows
    kept = [row for row in others if _loses_nothing(row, reference)]
    if not kept:
        return "Each format loses answers here: keep the float model."
    best = min(kept, key=lambda row: row.model_bytes)
    share, right = best.model_bytes / reference.model_bytes, _percent(best.accuracy.value)
    said = (
        f"{best.format} is the one to take: {_percent(share)} of float's size, and as often right "
        f"({right}, float {_percent(reference.accuracy.value)}: within chance)."
    )
    lost = [
        f"{row.format} is smaller, but {_percent(row.accuracy.value)} are right: too few bits."
        for row in others
        if row.model_bytes < best.model_bytes
    ]
    return " ".join([said, *lost])


def _loses_nothing(row: DemoRow, reference: DemoRow) -> bool:
    high = row.accuracy.high
    as_often_right = high is None or high >= reference.accuracy.value
    return row.text_kl.value <= MAX_KL and as_often_right


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _claim(output: Path) -> None:
    """Mark an empty or new folder as the demo's; UsageError: it is neither that nor marked."""
    mark = output / DEMO_FILE
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is not a folder; choose another with -o")
    if output.is_dir() and any(output.iterdir()) and not mark.is_file():
        raise UsageError(f"{output}: is not empty and no demo made it; choose another folder with -o")
    write_whole(mark, json.dumps({"made_by": "q3edge demo"}) + "\n")


def _variants(moe: bool) -> dict[str, Recipe | None]:
    """Name -> recipe, float first; int2 is the recipe of int4 with 2 bits in place of 4."""
    named = {name: Recipe.for_format(name) for name in ("int8", demo_format(moe))}
    return {FLOAT: None, **named, "int2": Recipe.for_format("int4").in_two_bits()}


def _questions(texts: Path, quick: bool) -> list[Question]:
    """The held-out questions, in `quick` every fifth of them, and in both those that are shown."""
    questions = read_questions(texts / "questions.jsonl")
    return [q for number, q in enumerate(questions) if not quick or number % _QUICK == 0 or q.id in _SHOWN]


def _shown(questions: Sequence[Question], reports: Mapping[str, AnswerReport]) -> tuple[DemoAnswer, ...]:
    return tuple(
        DemoAnswer(question.question, question.answer, {name: r.answers[number].given for name, r in reports.items()})
        for number, question in enumerate(questions)
        if question.id in _SHOWN
    )


def _transcripts(model: Path, questions: Sequence[Question]) -> list[Window]:
    """Windows of tokens of each question and its right answer, in the form of the model's training data."""
    tokenizer = Tokenizer.load(model, Qwen3Config.load(model).vocab_size)
    template = ChatTemplate.load(model)
    assert template is not None, "the embedded model has one"
    encoder = ChatEncoder(tokenizer, template, str(model))
    try:
        return [_transcript(encoder, question) for question in questions]
    finally:
        template.close()


def _transcript(encoder: ChatEncoder, question: Question) -> Window:
    messages: list[Message] = [
        {"role": "user", "content": question.question},
        {"role": "assistant", "content": question.answer},
    ]
    ids = encoder.encode(messages, thinking=question.thinking, add_generation_prompt=False)
    return Window(question.area, np.asarray(ids, np.int64))


@dataclass(frozen=True, slots=True)
class _Demo:
    """What all formats share: the embedded model, its questions, and the float model's states on them."""

    model: Path
    dialogues: Path
    output: Path
    threads: int | None
    questions: Sequence[Question]
    windows: Sequence[Window]
    states: EvaluationCache

    def build_and_evaluate(self, name: str, recipe: Recipe | None) -> tuple[DemoRow, AnswerReport]:
        calibration = None
        if recipe is not None and name != "int8":
            calibration = CalibrationOptions((self.dialogues,), samples=128, seq_len=128, shares=_SHARES)
        built = build_artifact(
            str(self.model), self.output / name, recipe, calibration,
            windows=self.windows, reference_states=self.states, threads=self.threads, overwrite=True,
        )  # fmt: skip
        with Model.open(self.output / name, threads=self.threads) as opened:
            settings = opened.settings(temperature=0.0, max_new_tokens=_LONGEST_ANSWER)
            speeds: list[float] = []

            def answer(question: Question) -> str:
                completion = opened.chat(question.question, settings, thinking=question.thinking)
                speeds.append(completion.stats.decode_tokens_per_second)
                return completion.answer

            report = score_answers(self.questions, answer)
        model_bytes = built.manifest.metrics["model_bytes"]
        assert isinstance(built.report, ValidationReport)  # of a language model
        row = DemoRow(name, model_bytes, built.report.text_kl, report.overall, statistics.median(speeds))
        return row, report
