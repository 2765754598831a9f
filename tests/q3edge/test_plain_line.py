"""R12: error texts, notes and notices are one short line of what can be printed, whatever names hold."""

from __future__ import annotations

import pytest

from q3edge import progress
from q3edge.artifact import Notice
from q3edge.errors import InputError, describe_error
from q3edge.plain_line import plain_line

HOSTILE = [
    "a\nb",
    "a\r\x1b[2J\x1b]0;title\x07b",
    "a\u2028b\u202eb\x85\u200f",
    "\udc80\x00",
    "x" * 200_000,
    "x y " * 50_000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_r12_names_of_any_kind_are_shown_in_one_line(name: str) -> None:
    notes: list[str] = []

    class Listening(progress.Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    with progress.report_to(Listening()):
        progress.note(f"tensor {name}: skipped")
    error = InputError(f"tensor {name}: refused")
    shown = [
        str(error),
        describe_error(error)[0],
        describe_error(RuntimeError(name))[0],
        Notice("code", 1, f"tensor {name}: skipped").detail,
        *notes,
    ]
    assert len(shown) == 5
    for text in shown:
        assert text.isprintable()
        assert len(text) < 5000
        text.encode()  # no half characters
    assert str(error).startswith("tensor ")
    assert str(error).endswith(": refused")


def test_what_can_be_printed_stays_as_it_is() -> None:
    for text in ("", "plain", "ä → 你好\u3000世界 ça 😀", "/a/long/path/" * 20, "a\\nb"):
        assert plain_line(text) == text


def test_escapes_and_cuts_are_told() -> None:
    assert plain_line("a\n\x1b[1m") == "a\\n\\x1b[1m"
    cut = plain_line("see " + "x" * 1000 + " there")
    assert cut == "see " + "x" * 260 + " [640 characters left out] " + "x" * 100 + " there"
    assert "characters left out" in plain_line("a b " * 2000)


def test_u18_names_that_are_too_long_and_places_that_refuse() -> None:
    assert describe_error(OSError(36, "File name too long", "x" * 5000))[1] == 2
    assert describe_error(PermissionError(13, "Permission denied", "/a")) == (
        "/a: Permission denied; check its permissions",
        4,
    )
