"""U16: what text takes on a terminal is counted in columns, not in characters; lines are broken between words."""

from __future__ import annotations

import pytest

from q3edge.columns import columns, to_left, to_right, wrapped


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("", 0), ("ab c", 4), ("日本語", 6), ("한국어 x", 8), ("Ａ１", 4), ("é", 1), ("e\u0301", 1),
        ("naïve–", 6), ("\U0001f600", 2), ("\u3000", 2),
    ],
)  # fmt: skip
def test_u16_a_text_takes_the_columns_that_terminals_give_it(text: str, wide: int) -> None:
    assert columns(text) == wide


def test_u16_padding_counts_columns() -> None:
    assert to_left("日本", 6) == "日本  "
    assert to_right("e\u0301", 3) == "  e\u0301"
    assert to_left("too long", 3) == "too long"


def test_u16_lines_of_wide_characters_fit() -> None:
    line = "note: " + "日本語 " * 30
    lines = wrapped(line, 40, "  ")
    assert max(map(columns, lines)) <= 40
    assert " ".join(lines).split() == line.split()
    assert all(part.startswith("  日") for part in lines[1:])


def test_a_command_is_not_broken_and_what_cannot_be_stands_alone() -> None:
    text = "q3edge: x: a checkpoint, not an ONNX model; make one: q3edge build 'a b' -o DIR --format int4"
    assert wrapped(text, 50) == [
        "q3edge: x: a checkpoint, not an ONNX model; make",
        "one: q3edge build 'a b' -o DIR --format int4",
    ]
    assert wrapped("run `q3edge export` on it first", 12, "  ") == ["run", "  `q3edge export`", "  on it", "  first"]
    assert wrapped("  " + "x" * 20 + " y", 10, " ") == ["  " + "x" * 20, "   y"]
    assert wrapped("   pass  one two", 14, "  ") == ["   pass  one", "     two"]
    assert wrapped("recovery 91.2 %, 350 MB", 14) == ["recovery", "91.2 %, 350 MB"]
    assert wrapped("", 10) == [""]
