"""`q3edge demo` in words: each row is on the screen before the next format begins, and all fits 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import q3edge
from q3edge.cli.main import main
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.pipeline.demo import DemoAnswer, DemoResult, DemoRow

ROWS = (
    DemoRow("float", 11_820_000, Estimate(1e-12, 1e-12, 2e-12), Estimate(0.94, 0.907, 0.962), 3814.2),
    DemoRow("int4", 1_820_000, Estimate(0.013, 0.0119, 0.0141), Estimate(0.937, 0.903, 0.959), 2946.0),
)
ANSWERS = (
    DemoAnswer("How is gold written in chemistry?", "Au", {"float": "Au", "int4": "Au"}),
    DemoAnswer("What is 2 + 2?", "4", {"float": "4", "int4": ""}),
)


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is on stdout after each row."""
    seen: list[str] = []

    def made_up(_output: object, *, on_row: Callable[[DemoRow], None] | None, **_options: object) -> DemoResult:
        for row in ROWS:
            if on_row is not None:
                on_row(row)
            seen.append(capsys.readouterr().out)
        return DemoResult(ROWS, ANSWERS, "int4 is the one to take.", 300, 34.2)

    monkeypatch.setattr(q3edge, "demo", made_up)
    return seen


def test_u5_a_row_is_printed_as_soon_as_it_is_known(screens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    end = capsys.readouterr().out
    assert screens[0].split()[:6] == ["format", "MB", "of", "float", "text", "KL"]
    assert screens[0].splitlines()[2].split() == [
        "float",
        "11.82",
        "100",
        "%",
        "0.0000",
        "94",
        "[90.7,",
        "96.2]",
        "3814",
    ]
    assert screens[1].split() == [
        "int4",
        "1.82",
        "15",
        "%",
        "0.0130",
        "[0.0119,",
        "0.0141]",
        "93.7",
        "[90.3,",
        "95.9]",
        "2946",
    ]
    assert "How is gold written in chemistry?\n  float: Au\n  int4:  Au\n" in end
    assert "  int4:  (nothing)   (right: 4)\n" in end
    assert end.endswith("\nint4 is the one to take.\n")
    assert max(map(len, "".join([*screens, end]).splitlines())) <= 80


def test_u5_json_is_one_object(screens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--quick", "--threads", "2"]) == 0
    assert screens == ["", ""]
    assert '"verdict": "int4 is the one to take."' in capsys.readouterr().out


def test_a_mixture_shows_the_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(replace(row, format="int4-mixed") if row.format == "int4" else row for row in ROWS)
    answers = tuple(replace(answer, given={"float": "Au", "int4-mixed": "Ag"}) for answer in ANSWERS)

    def made_up(_output: object, *, on_row: Callable[[DemoRow], None], **_options: object) -> DemoResult:
        for row in rows:
            on_row(row)
        return DemoResult(rows, answers, "int4-mixed is the one to take.", 300, 34.2)

    monkeypatch.setattr(q3edge, "demo", made_up)
    assert main(["demo", "--moe"]) == 0
    out, err = capsys.readouterr()
    head, line, *formats = out.splitlines()[:4]
    assert head.index("MB") + 2 == line.index("  ", 12)
    assert [text[:10].strip() for text in formats] == ["float", "int4-mixed"]
    assert "  int4-mixed: Ag   (right: Au)" in out
    assert "q3edge-demo/int4-mixed" in err
