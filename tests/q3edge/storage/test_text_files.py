"""Text is read strictly, and every error has its line."""

from __future__ import annotations

import pytest

from q3edge.errors import InputError
from q3edge.storage.text_files import Row, decode_utf8, json_lines, numbered_lines, table_rows


def refuse(line: int, problem: str) -> InputError:
    return InputError(f"{line}|{problem}")


def test_utf8() -> None:
    assert decode_utf8("\ufeffä\r\nb\rc\n".encode(), refuse) == "ä\nb\rc\n"
    with pytest.raises(InputError, match=r"^2\|byte 4$"):
        decode_utf8(b"ab\r\n\xff", refuse)


def test_lines_end_at_line_feeds_only() -> None:
    assert list(numbered_lines("a\u2028b\n\n \nc\x0c")) == [(1, "a\u2028b"), (4, "c\x0c")]


def test_json_lines() -> None:
    assert list(json_lines('{"a": 1}\n\n[2]\n', refuse)) == [(1, {"a": 1}), (3, [2])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"2\|Expecting property name"),
        ("[" * 100_000, r"2\|too deeply nested or too large a number"),
        ("1" * 5000, r"2\|too deeply nested or too large a number"),
    ],
)
def test_what_is_not_json_is_named(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(json_lines(f"1\n{line}", refuse))


def test_rows_know_their_first_and_last_line() -> None:
    assert table_rows('a,b\n\n"c\nd",e\nf,g', refuse) == [
        Row(1, 1, ["a", "b"]), Row(3, 4, ["c\nd", "e"]), Row(5, 5, ["f", "g"]),
    ]  # fmt: skip
    assert table_rows("a\tb", refuse, "\t") == [Row(1, 1, ["a", "b"])]
    with pytest.raises(InputError, match=r"2\|unexpected end of data"):
        table_rows('a\n"b', refuse)
