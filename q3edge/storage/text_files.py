"""Strict reading of text: UTF-8, numbered lines, JSON Lines, TOML, tables.

Callers give the form of errors: `refuse(line, problem)` makes one, with lines counted from 1.
"""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from q3edge.errors import InputError, Q3EdgeError, unreadable
from q3edge.storage.regular_files import read_regular

DELIMITERS = (",", ";", "\t", "|")
_LONGEST_CELL = 2**31 - 1  # characters; Python's csv refuses more than 131 072 by default

Refuse = Callable[[int, str], InputError]


def refusal(path: Path, what: str, advice: str = "") -> Refuse:
    """Make errors that name file and line, `what` is wrong, and the problem, and end with `advice`."""
    return lambda line, problem: InputError(f"{path}, line {line}: {what} ({problem}){advice}")


class Row(NamedTuple):
    """Row of a table, with its first and last line: a quoted cell may span several."""

    first: int
    last: int
    cells: list[str]


def decode_utf8(content: bytes, refuse: Callable[[int, str], Q3EdgeError]) -> str:
    """Decode UTF-8 without its byte order mark, \\r\\n as \\n. The error names the byte, counted from 0."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(content.count(b"\n", 0, error.start) + 1, f"byte {error.start}") from None
    return text.replace("\r\n", "\n")


def read_utf8(path: Path, expected: str = "a UTF-8 file", most: int | None = None) -> str:
    """Read a UTF-8 file, without byte order mark, \\r\\n as \\n. InputError: it cannot be read, or is not UTF-8.

    expected: what the file should be, for the error of one that cannot be read. most: bytes that it may have.
    """
    try:
        content = read_regular(path, most)
    except OSError as error:
        raise unreadable(f"{path}: cannot be read ({error.strerror}); expected {expected}", error) from None
    return decode_utf8(content, refusal(path, "not UTF-8 text", "; convert it or choose another"))


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, content) of every line that is not blank; only \\n ends one, as in JSON Lines."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def json_lines(text: str, refuse: Refuse) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, value) of every line that is not blank."""
    for number, line in numbered_lines(text):
        yield number, parse_json(line, partial(refuse, number))


def parse_json(text: str, refuse: Callable[[str], InputError]) -> Any:
    """Parse one JSON text; the error's problem is a few words."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise refuse(error.msg) from None
    except (ValueError, RecursionError):
        raise refuse("too deeply nested or too large a number") from None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Parse the TOML text of a file; InputError names it where it is not TOML, or nested without an end."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{path}: not valid TOML (too deeply nested)") from None
    except ValueError as error:  # TOMLDecodeError, or a whole number of more digits than Python reads
        raise InputError(f"{path}: not valid TOML ({error})") from None


def table_rows(text: str, refuse: Refuse, delimiter: str = ",") -> list[Row]:
    """Read every row of a CSV table that has cells, of any length."""
    rows, first = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), 1
    found = []
    with _long_cells():
        try:
            for cells in rows:
                if cells:
                    found.append(Row(first, rows.line_num, cells))
                first = rows.line_num + 1
        except csv.Error as error:
            raise refuse(rows.line_num, str(error)) from None
    return found


def delimiter_of(text: str, is_header: Callable[[list[str]], bool], usual: str = ",") -> str:
    """Delimiter with which the first row that is not blank is a header; `usual` where none makes it one."""
    line = next((line for _, line in numbered_lines(text)), "")
    with _long_cells():
        found = (d for d in (usual, *DELIMITERS) if is_header(next(csv.reader([line], delimiter=d), [])))
        return next(found, usual)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let tables have cells of any length: the limit is one of the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
