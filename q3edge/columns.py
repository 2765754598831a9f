"""Columns that text takes on a terminal, and lines that fit them.

A Chinese character takes two columns and a combining mark none, by the tables of rich, which draws the progress bars.
"""

from __future__ import annotations

import re

# What is not broken: a command to be copied, at the end of a line or between backticks, a number with its unit, a word.
_PART = re.compile(r"( *)((?<=: )q3edge .+|`[^`]+`\S*|\S*\d\S* (?:%|[kMG]B|nats|s|tokens/s)(?!\w)\S*|\S+)")


def columns(text: str) -> int:
    """Count the columns that a text of one line takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def to_left(text: str, width: int) -> str:
    """Pad a text to `width` columns, on its right."""
    return text + " " * (width - columns(text))


def to_right(text: str, width: int) -> str:
    """Pad a text to `width` columns, on its left."""
    return " " * (width - columns(text)) + text


def wrapped(line: str, width: int, later: str = "") -> list[str]:
    """Break a line between words into lines of at most `width` columns; what cannot be broken may be wider.

    Each begins with the indentation of the first, and from the second on with `later`.
    """
    indent = line[: len(line) - len(line.lstrip(" "))]
    lines: list[str] = []
    current = ""
    for blanks, part in _PART.findall(line):
        if current and columns(current + blanks + part) > width:
            lines.append(current)
            current = indent + later + part
        else:
            current += blanks + part
    return [*lines, current]
