"""Text that fits 80 columns: tables, and long lines."""

from __future__ import annotations

from collections.abc import Sequence

from q3edge.columns import columns, to_left, to_right, wrapped

WIDTH = 80  # columns of the narrowest usual terminal
_COMMAND = ": q3edge"
_INTERVAL = " ["  # where a value ends and its interval begins

Cell = list[str]  # lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a text table, columns padded to their widest cell: the first left-aligned, the others right.

    Wider than 80 columns, titles are broken between words, then intervals stand below their values, and what is still
    too wide becomes one paragraph a row. No number is broken.
    """
    for broken, below in ((False, False), (True, False), (True, True)):
        body = [[_cell(text, below and column > 0) for column, text in enumerate(row)] for row in rows]
        widths = [max(map(_width, column)) for column in zip(*body)] or [0] * len(header)
        titles = [_title(text, width, broken) for text, width in zip(header, widths)]
        widths = [max(width, _width(title)) for width, title in zip(widths, titles)]
        if sum(widths) + 2 * (len(widths) - 1) <= WIDTH:
            rule = "  ".join("-" * width for width in widths)
            return "\n".join(
                [*_lines(titles, widths, bottom=True), rule, *(x for r in body for x in _lines(r, widths))]
            )
    return _paragraphs(header, rows)


def fitted(text: str) -> str:
    """Break lines that are longer than 80 columns between words; what follows is indented by two more.

    A line with a command stays whole, to be copied.
    """
    return "\n".join(
        part
        for line in text.split("\n")
        for part in ([line] if columns(line) <= WIDTH or _COMMAND in line else wrapped(line, WIDTH, "  "))
    )


def _cell(text: str, below: bool) -> Cell:
    value, interval, rest = text.partition(_INTERVAL)
    return [value, interval.strip() + rest] if below and interval else [text]


def _title(text: str, width: int, broken: bool) -> Cell:
    """Title of a column with cells of this width; broken: no line is wider than it need be."""
    longest = max(map(columns, text.split()), default=0)
    return wrapped(text, max(width, longest)) if broken else [text]


def _width(cell: Cell) -> int:
    return max(map(columns, cell))


def _lines(cells: Sequence[Cell], widths: Sequence[int], *, bottom: bool = False) -> list[str]:
    """Lines of one row; bottom: shorter cells stand on the last line."""
    height = max(map(len, cells), default=0)
    filled = [[""] * (height - len(c)) + c if bottom else c + [""] * (height - len(c)) for c in cells]
    return [
        "  ".join(
            to_right(part, width) if column else to_left(part, width)
            for column, (part, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in zip(*filled)
    ]


def _paragraphs(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    longest = max(map(columns, header[1:]), default=0)
    return "\n".join(
        line
        for row in rows
        for line in (
            f"{header[0]}: {row[0]}",
            *(f"  {to_left(title, longest)}  {text}" for title, text in zip(header[1:], row[1:])),
        )
    )
