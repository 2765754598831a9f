"""Readers of files, one per format: bytes -> documents, with errors of syntax; `records` interprets keys."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.files import JSON_LINES, SourceFile, listed_files
from q3edge.calibration.data.parquet import parquet_rows
from q3edge.calibration.data.pdf import pdf_text
from q3edge.calibration.data.records import (
    ALL_KEYS,
    USABLE,
    BadRecord,
    RecordPlace,
    makes_record,
    question_and_answer,
    read_record,
)
from q3edge.calibration.data.turns import says
from q3edge.calibration.data.unpacking import ExpansionError
from q3edge.errors import InputError, ResourceError, unreadable
from q3edge.machine.extras import install_line
from q3edge.storage.text_files import Refuse, decode_utf8, delimiter_of, json_lines, table_rows

_LIBRARIES = {".parquet": ("pyarrow.parquet", "parquet"), ".pdf": ("pypdf", "quantize")}  # modules, and their extras


def read_documents(file: SourceFile, source: int) -> tuple[list[Document], list[BadRecord]]:
    """Read all documents of a file, which is number `source`, and the records that make none.

    InputError: not UTF-8, broken syntax, with the line; no record, or none that makes a document. ResourceError: an
    optional library is missing.
    """
    documents: list[Document] = []
    bad: list[BadRecord] = []
    for found in _READERS[file.extension](file, source):
        if isinstance(found, BadRecord):
            bad.append(found)
        else:
            documents.append(found)
    if not documents:
        raise InputError(f"{file.label}: {bad[0] if bad else 'holds no record; expected text to calibrate on'}")
    return documents, bad


def require_readers(paths: Sequence[Path]) -> None:
    """Raise ResourceError if a file among `paths`, or in a folder there, needs a library that is not installed.

    InputError: a path that is missing or of unknown type, or a folder without a file of known type.
    """
    for file in listed_files(paths):
        if file.suffix.lower() in _LIBRARIES:
            _optional(file.suffix.lower(), str(file))


def _read_text(file: SourceFile, source: int) -> Iterator[Document]:
    """Read the whole file as one document; long ones are cut into passages later."""
    yield Document(source, 1, _decode(file), area=file.area)


def _read_code(file: SourceFile, source: int) -> Iterator[Document]:
    yield Document(source, 1, _decode(file), is_code=True, area=file.area)


def _read_json_lines(file: SourceFile, source: int) -> Iterator[Document | BadRecord]:
    for number, record in json_lines(_decode(file), _refusal(file, "not valid JSON", "expected one object a line")):
        yield read_record(record, RecordPlace(source, number, file.area))


def _read_table(file: SourceFile, source: int) -> Iterator[Document | BadRecord]:
    """Read records under a header that has usable keys; else one column of text or two of questions and answers."""
    text = _decode(file)
    delimiter = delimiter_of(text, makes_record, "\t" if file.extension == ".tsv" else ",")
    rows = table_rows(text, _refusal(file, "not a table", "check its quotes"), delimiter)
    header = rows[0].cells if rows and makes_record(rows[0].cells) else None
    columns = len(rows[0].cells) if rows else 0
    if header is None and columns not in (0, 1, 2):
        wanted = f"{columns} columns without a header that has {USABLE}; expected one column, or two"
        raise InputError(f"{file.label}: line {rows[0].first}: {wanted}")
    for number, _, row in rows[1:] if header else rows:
        if len(row) > columns or (header is None and len(row) < columns):
            yield BadRecord(number, f"{len(row)} cells where the first row has {columns}; check delimiters and quotes")
        elif header:
            yield read_record(_record(header, row), RecordPlace(source, number, file.area))
        elif columns == 1:
            yield Document(source, number, row[0], area=file.area)
        else:
            yield Document(source, number, messages=question_and_answer(row[0], row[1]), area=file.area)


def _record(header: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    """Cells by their column's name; of columns of the same name, the first that says anything."""
    record: dict[str, str] = {}
    for name, cell in zip(header, row):
        if not says(record.get(name)):
            record[name] = cell
    return record


def _read_parquet(file: SourceFile, source: int) -> Iterator[Document | BadRecord]:
    def usable(names: Sequence[str]) -> list[str]:
        columns = [name for name in names if name.strip().lower() in ALL_KEYS]
        if not columns:
            raise InputError(f"{file.label}: columns {', '.join(names)[:120]}; expected {USABLE}")
        if twice := next((name for name in columns if names.count(name) > 1), None):
            raise InputError(f"{file.label}: two columns have the name {twice!r}; rename one")
        return columns

    rows = enumerate(parquet_rows(file.content, _optional(file.extension, file.label), usable), 1)
    with _library(file, "Parquet file", "write it again"):
        for number, row in rows:
            yield read_record(row, RecordPlace(source, number, file.area))


def _read_pdf(file: SourceFile, source: int) -> Iterator[Document]:
    pypdf = _optional(file.extension, file.label)
    with _library(file, "PDF", "save it as text"):
        text = pdf_text(file.content, pypdf)
    if not text.strip():
        raise InputError(f"{file.label}: a PDF without text (scanned pages?); save it as text")
    yield Document(source, 1, text, area=file.area)


@contextmanager
def _library(file: SourceFile, what: str, advice: str) -> Iterator[None]:
    """Turn whatever a damaged or hostile file provokes in a library into an InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except ExpansionError as error:
        raise InputError(f"{file.label}: unpacks to {error}; {advice}") from None
    except Exception as error:
        raise unreadable(f"{file.label}: not a readable {what} ({type(error).__name__}); {advice}", error) from None


def _optional(extension: str, label: str) -> Any:
    module, extra = _LIBRARIES[extension]
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ResourceError(f"{label}: reading {extension} needs {package}; run: {install_line(extra)}") from None


def _refusal(file: SourceFile, what: str, advice: str) -> Refuse:
    return lambda line, problem: InputError(f"{file.label}: line {line}: {what} ({problem}); {advice}")


def _decode(file: SourceFile) -> str:
    """Decode UTF-8 text (a byte order mark is dropped) with plain line ends; InputError names the line that is not."""
    text = decode_utf8(file.content, _refusal(file, "not UTF-8 text", "convert it or choose another"))
    return text.replace("\r", "\n")


_READERS: dict[str, Callable[[SourceFile, int], Iterator[Document | BadRecord]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_code,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
    ".pdf": _read_pdf,
    **dict.fromkeys(JSON_LINES, _read_json_lines),
}
