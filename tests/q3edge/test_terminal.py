"""Progress in a file: a line at the start, one every 30 s, one at the end of long work; on a terminal bars that go."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from q3edge import progress, terminal
from q3edge.columns import columns
from q3edge.terminal import TerminalProgress, duration


class Clock:
    """Stands still until it is told how late it is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_long_work_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress.report_to(TerminalProgress(clock)):
        with progress.task("calibrate", 200) as advance:
            for _ in range(19):
                clock.now += 10
                advance(10)
        progress.note("kept: the best plan")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "calibrate: started",
        "calibrate: 15 %, about 3 min left",
        "calibrate: 30 %, about 2 min left",
        "calibrate: 45 %, about 2 min left",
        "calibrate: 60 %, about 80 s left",
        "calibrate: 75 %, about 50 s left",
        "calibrate: 90 %, about 20 s left",
        "calibrate: done in 3 min",
        "kept: the best plan",
    ]


def test_short_work_ends_without_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with TerminalProgress(clock).task("write", 2) as advance:
        clock.now += 9.9
        advance(2)
    assert capsys.readouterr().err == "write: started\n"


def test_nothing_is_promised_before_anything_is_done_nor_after_everything_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with TerminalProgress(clock).task("export", 0) as nothing_to_do:
        clock.now += 60
        nothing_to_do(0)
    with TerminalProgress(clock).task("compare", 10) as advance:
        clock.now += 60
        advance(0)
        advance(10)
    assert [line for line in capsys.readouterr().err.splitlines() if "%" in line] == []


def test_work_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()

    def work() -> None:
        with TerminalProgress(clock).task("tune", 3):
            clock.now += 60
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()
    assert capsys.readouterr().err == "tune: started\n"


def test_u5_bars_vanish_when_the_work_ends_and_work_inside_work_has_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, screen = Clock(), io.StringIO()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "_console", lambda: console)
    listener = TerminalProgress(clock)
    with listener.task("compare", 2) as advance:
        with listener.task("float reference", 1) as inner:
            inner(1)
        advance(1)
        clock.now += 200
    drawn = screen.getvalue()
    assert "compare" in drawn
    assert "float reference" in drawn
    assert drawn.endswith("\r\x1b[1A\x1b[2K")  # the one line that was left is erased
    assert capsys.readouterr().err == "compare: done in 3 min\n"
    with listener.task("write", 1):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal_there", [True, False])
def test_a_note_is_broken_between_words_on_a_terminal_and_whole_in_a_file(
    terminal_there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal_there)
    note = "note: " + "several words and 日本語 " * 6 + "; make one: q3edge build " + "a/checkpoint" * 5
    TerminalProgress().note(note)
    lines = capsys.readouterr().err.splitlines()
    if not terminal_there:
        assert lines == [note]
        return
    assert max(map(columns, lines)) <= 80
    assert " ".join(lines).split() == note.split()
    assert lines[-1] == "  q3edge build " + "a/checkpoint" * 5


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
