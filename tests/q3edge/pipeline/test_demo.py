"""The demo: one reading of the float model for all formats, rows as they are known, and a verdict in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from q3edge.evaluation.distance import references
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.distance.windows import Window
from q3edge.pipeline import demo
from q3edge.pipeline.demo import DemoRow, run_demo, verdict
from q3edge.progress import Advance, report_to
from q3edge.quantization.recipe import Recipe


class _Tasks:
    """Listener that adds the name of each piece of work to a list when it begins."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    @contextmanager
    def task(self, label: str, _total: int) -> Iterator[Advance]:
        self._events.append(label)
        yield lambda _count: None

    def note(self, text: str) -> None:
        pass


@pytest.mark.slow
def test_u5_the_float_model_is_read_once_and_rows_come_as_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = references.window_states

    def counting(source: object, windows: Sequence[Window], **options: str) -> list[torch.Tensor]:
        read.append(len(windows))
        return whole(source, windows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(references, "window_states", counting)
    monkeypatch.setattr(demo, "_variants", lambda _moe: {"float": None, "int8": Recipe.for_format("int8")})
    events: list[str] = []
    with report_to(_Tasks(events)):
        result = run_demo(
            tmp_path / "demo", threads=1, quick=True, on_row=lambda row: events.append(f"row {row.format}")
        )
    told = [event for event in events if event == "answers" or event.startswith("row")]
    assert told == ["answers", "row float", "answers", "row int8"]
    assert [count for count in read if count > 1] == [result.questions]  # a window is a question
    assert 60 <= result.questions < 70
    assert len(result.answers) == 3
    assert all(answer.given == {"float": answer.right, "int8": answer.right} for answer in result.answers)
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["demo.json", "float", "int8"]


@pytest.mark.slow
def test_the_model_with_experts_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_variants", lambda _moe: {"float": None, "int8": Recipe.for_format("int8")})
    result = run_demo(tmp_path / "demo", threads=1, moe=True, quick=True)
    exact, int8 = result.rows
    assert exact.accuracy.value > 0.8
    assert int8.text_kl.value < 0.02
    config = json.loads((tmp_path / "demo" / "int8" / "config.json").read_text())
    assert config["model_type"] == "qwen3_moe"


def test_the_format_of_4_bits_is_the_default_of_a_mixture() -> None:
    assert [*demo._variants(moe=True)] == ["float", "int8", "int4-mixed", "int2"]
    assert [*demo._variants(moe=False)] == ["float", "int8", "int4", "int2"]


def row(name: str, size: int, kl: float, right: float) -> DemoRow:
    return DemoRow(name, size, Estimate(kl, kl, kl), Estimate(right, right - 0.03, right + 0.03), 1.0)


def test_u5_the_verdict_names_the_smallest_format_that_loses_nothing() -> None:
    rows = [row("float", 100, 0.0, 0.94), row("int8", 30, 0.001, 0.95), row("int4", 15, 0.02, 0.92)]
    assert verdict([*rows, row("int2", 10, 0.3, 0.8)]) == (
        "int4 is the one to take: 15 % of float's size, and as often right (92 %, float 94 %: within chance). "
        "int2 is smaller, but 80 % are right: too few bits."
    )
    assert verdict([*rows, row("int2", 10, 0.06, 0.94)]).startswith("int4 is the one to take")  # by its KL
    assert verdict([*rows[:2], row("int4", 15, 0.02, 0.9)]).startswith("int8 is the one to take")  # by its answers
    assert verdict([rows[0], row("int2", 10, 0.3, 0.8)]) == "Each format loses answers here: keep the float model."
