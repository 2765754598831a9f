"""Damaged calibration files of every type: refused, or read as what stands in them, and all that is lost is counted."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.calibration.data import CalibrationSet, load_calibration_set, load_token_file
from q3edge.calibration.data.files import EXTENSIONS, JSON_LINES
from q3edge.errors import InputError
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.fuzz.cases import check_refusals, counts, damaged_bytes, damaged_json, json_bytes, outcome
from tests.helpers.pdf import pdf, shown
from tests.helpers.runtime import TOOL_TEMPLATE, build_tokenizer

Load = Callable[[Path], CalibrationSet]
PROSE = """The river freezes late in winter, and the town's children wait for the day when it carries their sledges.

Nobody remembers who built the mill above the bridge; its wheel still turns whenever the snow melts in the hills.
"""
CODE = "def area(width, height):\n    if width < 0:\n        raise ValueError(width)\n    return width * height\n"
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": [3, None]}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
RECORDS: list[dict[str, Any]] = [
    {"text": PROSE, "language": "en"},
    {"question": "How many wheels have 4 carts?", "answer": "Each has 4: 4 * 4 = 16\n#### 16", "area": "math"},
    {"prompt": "def one():\n", "canonical_solution": "    return 1\n"},
    {"instruction": "Add.", "input": "2 and 3", "output": "5"},
    {
        "messages": [
            {"role": "developer", "content": "Be exact."},
            {"role": "user", "content": [{"type": "text", "text": "What is 2 + 3?"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "5"},
            {"role": "assistant", "content": "It is 5.", "reasoning_content": "The tool says so."},
        ],
        "tools": [TOOL],
    },
    {"conversations": [{"from": "human", "value": "Who lives there?"}, {"from": "gpt", "value": "An old miller."}]},
]
HOSTILE_TEXT = (
    b"\xff\xfe", b"\xed\xa0\x80", b"\0" * 50, "\u202e\u200b\ufeff".encode(), b" " * 3000, b"(" * 3000, b"\n" * 3000,
    b"a b " * 900, "\u0e01\u0e34".encode() * 900, b'"' * 99, b"<|im_end|><think>", b"%%EOF", b"\r", b"$x=" * 900,
)  # fmt: skip
SEQ_LEN = 16
VOCAB = 320


@cache
def whole(extension: str) -> bytes:
    """An undamaged file of a type."""
    if extension in (".txt", ".md"):
        return PROSE.encode()
    if extension == ".py":
        return CODE.encode()
    if extension in (".csv", ".tsv"):
        file = io.StringIO()
        table = csv.writer(file, delimiter="\t" if extension == ".tsv" else ";")
        table.writerows([["id", "Question", "Answer", "text"], ["1", "Who; or what?", 'The "miller"\nof old', ""]])
        table.writerows([["2", "", "", PROSE], ["3", "How many?", "4", "not read"]])
        return file.getvalue().encode()
    if extension == ".pdf":
        lines = " ".join(PROSE.split()).replace(";", ")")
        return pdf("/F0 Do /F1 Do", *(shown(line) for line in lines.split(")")))
    if extension == ".npy":
        array = io.BytesIO()
        np.save(array, np.random.default_rng(0).integers(0, VOCAB, (6, 24)).astype(np.int32))
        return array.getvalue()
    if extension == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        content = io.BytesIO()
        records = [record for record in RECORDS if "messages" not in record]  # whose contents are of two types
        columns = {key: [record.get(key) for record in records] for key in sorted(set().union(*records))}
        parquet.write_table(pyarrow.table(columns), content)
        return content.getvalue()
    return b"\n".join(json.dumps(record).encode() for record in RECORDS)


def damaged_file(extension: str, source: random.Random) -> bytes:
    """A file of a type with damaged bytes, records, or what text from anywhere may hold."""
    content = whole(extension)
    if extension in JSON_LINES and source.random() < 0.8:
        lines = [damaged_json(record, source) if source.random() < 0.4 else record for record in RECORDS]
        content = b"\n".join(json_bytes(line, source) if source.random() < 0.2 else _dumped(line) for line in lines)
    if source.random() < 0.3 and extension != ".npy":
        at = source.randrange(len(content) + 1)
        content = content[:at] + source.choice(HOSTILE_TEXT) + content[at:]
    if source.random() < 0.1:
        other = whole(source.choice(EXTENSIONS))
        return content[: source.randrange(len(content) + 1)] + other[source.randrange(len(other)) :]
    return damaged_bytes(content, source) if source.random() < 0.6 else content


def _dumped(line: Any) -> bytes:
    return json.dumps(line).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Reader of a file with a tokenizer and a chat template that writes calls and tools."""
    tokenizer, template = Tokenizer(build_tokenizer(), "tokenizer", VOCAB), ChatTemplate(TOOL_TEMPLATE, "template")

    def read(path: Path) -> CalibrationSet:
        if path.suffix == ".npy":
            return load_token_file(path, VOCAB, 64)
        return load_calibration_set([path], tokenizer, template, samples=4, seq_len=SEQ_LEN)

    yield read
    template.close()


def test_calibration_files(tmp_path: Path, load: Load) -> None:
    """What is read fills rows with ids of the vocabulary; a record is used, or dropped for a reason that is told."""
    refused = 0
    for index, source in counts("calibration", 400, 5000):
        extension = source.choice((*EXTENSIONS, ".npy"))
        path = tmp_path / f"file{extension}"
        path.write_bytes(damaged_file(extension, source))
        case = f"calibration:{index}"
        found = outcome(case, partial(load, path))
        if isinstance(found, Exception):
            assert isinstance(found, InputError), case
            assert path.name in str(found) or str(found).startswith("calibration data: "), case
            refused += 1
            continue
        assert 0 <= found.token_ids.min() <= found.token_ids.max() < VOCAB, case
        assert found.token_ids.shape[1] == SEQ_LEN or extension == ".npy", case
        (read,) = found.sources
        assert read.read == read.kept + sum(read.dropped.values()), case
        assert read.tokens == found.token_ids.size, case
        if extension in JSON_LINES:
            lines = path.read_bytes().decode("utf-8-sig").replace("\r", "\n").split("\n")
            assert read.read >= sum(bool(line.strip()) for line in lines), case
        told = {notice.code: notice.count for notice in found.notices}
        assert {f"calibration-{reason}": count for reason, count in read.dropped.items()}.items() <= told.items(), case
    check_refusals(refused)


@pytest.mark.parametrize("number", [6921, 11845, 13724])
def test_parquet_figures_that_arrow_aborts_on(tmp_path: Path, load: Load, number: int) -> None:
    """Cases beyond the long count in which asking for the size of a column ended the whole process."""
    source = random.Random(f"calibration:{number}")
    path = tmp_path / f"file{source.choice((*EXTENSIONS, '.npy'))}"
    path.write_bytes(damaged_file(path.suffix, source))
    assert path.suffix == ".parquet"
    assert isinstance(outcome(f"calibration:{number}", partial(load, path)), InputError | CalibrationSet)


@pytest.mark.parametrize("extension", [*EXTENSIONS, ".npy"])
def test_whole_calibration_files(tmp_path: Path, load: Load, extension: str) -> None:
    """Without damage every type is read and nothing of it lost, so that the damages are what is refused."""
    path = tmp_path / f"file{extension}"
    path.write_bytes(whole(extension))
    (source,) = load(path).sources
    assert source.kept == source.read
