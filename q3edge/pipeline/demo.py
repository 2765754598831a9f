"""The whole flow on the embedded model: build float, int8, int4 and int2, evaluate each on held-out questions.

int4 and int2 are calibrated on dialogues like those the model was trained on. int2 is no format to ship: it shows the
damage of too few bits.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from q3edge import progress
from q3edge.checkpoint import Checkpoint
from q3edge.errors import UsageError
from q3edge.evaluation.answers.questions import score_answers
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.suites.question_files import Question, read_questions
from q3edge.formats import FLOAT
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message
from q3edge.storage.whole_files import write_whole

DEMO_FILE = "demo.json"  # in the folder, which the next demo may then replace
_LONGEST_ANSWER = 128
_SHARES = {"knowledge": 17, "math": 30, "code": 32, "multilingual": 15, "safety": 6}  # of the model's curriculum


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
class DemoResult:
    """Result of the demo: all rows, float first."""

    rows: tuple[DemoRow, ...]
    questions: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self)


def run_demo(output: Path) -> DemoResult:
    """Build and evaluate every format below `output`; models of an earlier demo there are replaced.

    UsageError: `output` holds anything else.
    """
    start = time.perf_counter()
    _claim(output)
    with as_file(files("q3edge.data") / "demo_model") as model:
        questions = read_questions(model / "questions.jsonl")
        rows = []
        for name, recipe in _variants().items():
            progress.note(f"{name}: quantize, export, validate, answer {len(questions)} questions ...")
            calibration = None if recipe is None or name == "int8" else _calibration(model)
            rows.append(_build_and_evaluate(model, output / name, name, recipe, calibration, questions))
    return DemoResult(tuple(rows), len(questions), time.perf_counter() - start)


def _claim(output: Path) -> None:
    """Mark an empty or new folder as the demo's; UsageError: it is neither that nor marked."""
    mark = output / DEMO_FILE
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is not a folder; choose another with -o")
    if output.is_dir() and any(output.iterdir()) and not mark.is_file():
        raise UsageError(f"{output}: is not empty and no demo made it; choose another folder with -o")
    write_whole(mark, json.dumps({"made_by": "q3edge demo"}) + "\n")


def _variants() -> dict[str, Recipe | None]:
    """Name -> recipe, float first; int2 is the recipe of int4 with 2 bits in place of 4."""
    int4 = Recipe.for_format("int4")
    return {FLOAT: None, "int8": Recipe.for_format("int8"), "int4": int4, "int2": int4.in_two_bits()}


def _calibration(model: Path) -> CalibrationOptions:
    return CalibrationOptions((model / "calibration.jsonl",), samples=128, seq_len=128, shares=_SHARES)


def _build_and_evaluate(
    model: Path,
    output: Path,
    name: str,
    recipe: Recipe | None,
    calibration: CalibrationOptions | None,
    questions: Sequence[Question],
) -> DemoRow:
    def windows(artifact: Path, _checkpoint: Checkpoint) -> list[Window]:
        with Model.open(artifact) as opened:
            return [_transcript(opened, question) for question in questions]

    built = build_artifact(str(model), output, recipe, calibration, windows=windows, overwrite=True)
    with Model.open(output) as opened:
        settings = opened.settings(temperature=0.0, max_new_tokens=_LONGEST_ANSWER)
        speeds: list[float] = []

        def answer(question: Question) -> str:
            completion = opened.chat(question.question, settings, thinking=question.thinking)
            speeds.append(completion.stats.decode_tokens_per_second)
            return completion.answer

        scores = score_answers(questions, answer)
    model_bytes = built.manifest.metrics["model_bytes"]
    return DemoRow(name, model_bytes, built.report.text_kl, scores.overall, statistics.median(speeds))


def _transcript(model: Model, question: Question) -> Window:
    """Window of tokens of a question and its right answer, in the form of the model's training data."""
    messages: list[Message] = [
        {"role": "user", "content": question.question},
        {"role": "assistant", "content": question.answer},
    ]
    ids = model.encode_chat(messages, thinking=question.thinking, add_generation_prompt=False)
    return Window(question.area, np.asarray(ids, np.int64))
