"""Every file type becomes the documents it holds; every broken file is refused with its name and line."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from q3edge.calibration.data import files, parquet
from q3edge.calibration.data import pdf as pdf_reader
from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.files import SourceFile, open_sources
from q3edge.calibration.data.readers import read_documents
from q3edge.calibration.data.records import BadRecord
from q3edge.errors import InputError, ResourceError
from q3edge.machine.extras import install_line
from q3edge.runtime.text.messages import Message
from tests.helpers.pdf import pdf, shown

QUESTION: tuple[Message, ...] = ({"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"})


def read(name: str, content: str | bytes) -> tuple[list[Document], list[BadRecord]]:
    return read_documents(SourceFile(f"folder/{name}", content.encode() if isinstance(content, str) else content), 0)


def documents(name: str, content: str | bytes) -> list[Document]:
    found, bad = read(name, content)
    assert not bad
    return found


def one(name: str, content: str | bytes) -> Document:
    (document,) = documents(name, content)
    return document


@pytest.mark.parametrize("name", ["a.txt", "a.MD"])
def test_a_text_file_is_one_document(name: str) -> None:
    assert one(name, "\ufeffHello\r\n\r\nworld\r") == Document(0, 1, "Hello\n\nworld\n")


def test_a_python_file_is_code() -> None:
    assert one("a.py", "x = 1\n") == Document(0, 1, "x = 1\n", is_code=True)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "hello"}, Document(0, 1, "hello")),
        ({"content": "hello", "id": 3}, Document(0, 1, "hello")),
        ({"messages": list(QUESTION), "text": "ignored"}, Document(0, 1, messages=QUESTION)),
        ({"question": "2 + 3?", "answer": 5}, Document(0, 1, messages=QUESTION)),
        ({"Prompt": "2 + 3?", "Completion": "5"}, Document(0, 1, messages=QUESTION)),
        ({"instruction": "2 + 3?", "output": "5", "input": ""}, Document(0, 1, messages=QUESTION)),
        (
            {"prompt": "def f():\n", "canonical_solution": "    pass\n"},
            Document(0, 1, "def f():\n    pass\n", (), True),
        ),
        ({"text": "x", "area": "safety", "language": "pt-BR"}, Document(0, 1, "x", (), False, "safety", "pt-BR")),
        ({"text": "x", "area": "sports", "domain": "safety"}, Document(0, 1, "x", area="safety")),
        ({"text": "x", "domain": "sports", "language": "Python 3"}, Document(0, 1, "x")),
    ],
)
def test_keys_of_a_record(record: dict[str, object], expected: Document) -> None:
    assert one("a.jsonl", json.dumps(record)) == expected


def test_an_instruction_with_its_input() -> None:
    document = one("a.jsonl", json.dumps({"instruction": "Add.", "input": "2, 3", "output": "5"}))
    assert document.messages[0]["content"] == "Add.\n\n2, 3"


def test_conversations_with_from_and_value() -> None:
    turns = [{"from": "human", "value": "2 + 3?"}, {"from": "gpt", "value": "5", "weight": 1}]
    assert one("a.json-lines", json.dumps({"conversations": turns})).messages == QUESTION


def test_thoughts_are_kept_and_blank_lines_skipped() -> None:
    message = {"role": "assistant", "content": "5", "reasoning_content": "2 and 3 more"}
    line = json.dumps({"messages": [QUESTION[0], message]})
    found = documents("a.jsonl", f"\n{line}\n\n{line}")
    assert [(d.number, d.messages[1]) for d in found] == [(2, message), (4, message)]


@pytest.mark.parametrize("name", ["safety.jsonl", "Safety.JSONL"])
def test_a_file_named_after_an_area_is_of_that_area(name: str) -> None:
    assert one(name, '{"text": "x", "area": "math"}').area == "safety"


def test_general_is_another_name_of_knowledge() -> None:
    assert one("general.jsonl", '{"text": "x", "area": "math"}').area == "knowledge"
    assert one("a.jsonl", '{"text": "x", "domain": "general"}').area == "knowledge"


def test_a_table_with_a_header() -> None:
    found = documents("a.csv", 'id,Question,A,Answer\n1,"2 +\n3?",x,5\n2,"say ""hi""",y,hi\n')
    assert [d.number for d in found] == [2, 4]
    assert [d.messages[0]["content"] for d in found] == ["2 +\n3?", 'say "hi"']
    assert documents("a.tsv", "text\nhello\nworld")[1].text == "world"


def test_a_table_without_a_header() -> None:
    assert documents("a.tsv", "2 + 3?\t5\nagain\t6\n")[0].messages == QUESTION
    assert [d.text for d in documents("a.csv", "hello\n\nworld\n")] == ["hello", "world"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet_library = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": [1, 2], "question": ["2 + 3?", "q"], "answer": ["5", None]})
    parquet_library.write_table(table, tmp_path / "a.parquet")
    found = documents("a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert found[0].messages == QUESTION
    assert found[1].messages[1]["content"] == ""
    parquet_library.write_table(pyarrow.table({"id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: columns id; expected text"):
        documents("b.parquet", (tmp_path / "b.parquet").read_bytes())
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        documents("a.parquet", b"PAR1")


def test_pdf() -> None:
    assert one("a.pdf", pdf(shown("Hello world"))).text.strip() == "Hello world"
    with pytest.raises(InputError, match=r"a\.pdf: a PDF without text \(scanned pages\?\)"):
        documents("a.pdf", pdf(shown("")))
    with pytest.raises(InputError, match=r"a\.pdf: not a readable PDF \("):
        documents("a.pdf", b"%PDF-1.4\nnothing")


def test_a_form_is_text_too() -> None:
    assert "inside" in one("a.pdf", pdf("/F0 Do /F#30 Do", shown("inside"))).text


@pytest.mark.parametrize(
    "streams",
    [
        (shown("ab) Tj (" * 250_000),),  # 500 000 operators in 2 KB
        ("/F0 Do " * 50, "/F1 Do " * 50, "/F2 Do " * 50, shown("ab") * 50),  # as many in forms of forms
        ("/F#30 Do " * 50, "/F1 Do " * 50, "/F2 Do " * 50, shown("ab") * 50),  # under a name written with an escape
    ],
)
def test_r10_a_small_pdf_of_many_operators_is_refused_before_it_is_interpreted(
    monkeypatch: pytest.MonkeyPatch, streams: tuple[str, ...]
) -> None:
    def interpreted(page: object) -> str:
        raise AssertionError

    monkeypatch.setattr("pypdf.PageObject.extract_text", interpreted)
    content = pdf(*streams)
    assert len(content) < 10_000
    with pytest.raises(InputError, match=r"a\.pdf: unpacks to more than 1 MB of drawing operators; save it as text"):
        documents("a.pdf", content)


@pytest.mark.parametrize(("pages", "codes"), [(1, b""), (20, b""), (1, b" " * 10_000), (3, b" " * 10_000)])
def test_r10_pages_and_maps_of_fonts_cost_too(monkeypatch: pytest.MonkeyPatch, pages: int, codes: bytes) -> None:
    monkeypatch.setattr(pdf_reader, "_FREE", 4000)
    monkeypatch.setattr(pdf_reader, "_EXPANSION", 0)
    content = pdf(shown("Hello"), pages=pages, codes=codes)
    if pages == 1:
        assert "Hello" in one("a.pdf", content).text
    else:
        with pytest.raises(InputError, match=r"a\.pdf: unpacks to more than"):
            documents("a.pdf", content)


def test_a_form_that_draws_itself_is_no_endless_work() -> None:
    assert one("a.pdf", pdf("/F0 Do", shown("inside") + " /F1 Do", "/F0 Do")).text.strip()


@pytest.mark.parametrize("rows", [2000, 20_000_000])
def test_r14_a_parquet_file_that_unpacks_to_gigabytes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: int
) -> None:
    """One long text in many rows, or very many rows: the figures in the file say nothing of the first."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet_library = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "LARGEST", 2**24)
    indices = pyarrow.array(np.zeros(rows, np.int32))
    values = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(["x" * 100_000]))
    parquet_library.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet", compression="zstd")
    content = (tmp_path / "a.parquet").read_bytes()
    assert len(content) < 100_000
    with pytest.raises(InputError, match=r"a\.parquet: unpacks to more than 1 GiB; write it again"):
        documents("a.parquet", content)


@pytest.mark.parametrize(("name", "extra"), [("a.pdf", "quantize"), ("a.parquet", "parquet")])
def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    def missing(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ResourceError, match=rf"{name}: reading .* needs py\w+; run: {re.escape(install_line(extra))}"):
        documents(name, b"x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nnot \xff fine", "line 2: not UTF-8 text"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": ', r"line 3: not valid JSON \(Expecting value\)"),
        ("a.jsonl", "[" * 100_000, r"line 1: not valid JSON \(too deeply nested"),
        ("a.jsonl", '{"body": "x", "id": 1}', "line 1: keys body, id; expected text, content, messages"),
        ("a.jsonl", "{}", "line 1: keys none; expected text"),
        ("a.jsonl", "[1]", "line 1: expected an object with text, .*; found a list"),
        ("a.jsonl", '{"text": ["x"]}', "line 1: text is a list; expected text"),
        ("a.jsonl", '{"question": "x", "answer": true}', "line 1: answer is true or false; expected text"),
        ("a.jsonl", '{"messages": "x"}', "line 1: messages is text; expected a list of messages"),
        ("a.jsonl", '{"messages": ["x"]}', r"line 1: messages\[0\] is text; expected an object"),
        ("a.jsonl", '{"messages": [{"role": "boss", "content": "x"}]}', r"line 1: messages\[0\] has role 'boss'"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', r"messages\[0\] has content of type null; expected text"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "x", "reasoning_content": 3}]}',
            r"messages\[0\] has reasoning_content of type a number",
        ),
        ("a.csv", "a,b,c\n1,2,3\n", "line 1: 3 columns without a header that has text"),
        ("a.csv", "question,answer\nz\n", "line 2: keys question; expected"),
        ("a.tsv", 'x\t"y\nz\t1\n', r"line 2: not a table \(unexpected end of data\)"),
        ("a.csv", "text\n", "holds no record"),
    ],
)
def test_a_broken_file_is_named_with_its_line(name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"^folder/{name}: .*{message}") as caught:
        documents(name, content)
    assert str(caught.value).isprintable()


def test_folders_hold_files_of_known_types(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl", "c.docx", ".hidden.txt"):
        (tmp_path / name).write_text("x")
    found, skipped = open_sources([tmp_path, tmp_path / "b.txt"])
    assert [file.name for file in found] == ["a.jsonl", "b.txt"]
    assert skipped == 1


def test_a_file_of_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").symlink_to("gone")
    with pytest.raises(InputError, match=r"b\.txt: cannot be read \(No such file"):
        open_sources([tmp_path])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: (path / "x.txt").touch(), r"x\.txt: is empty"),
        (lambda path: (path / "x.txt").write_text(" \n"), r"x\.txt: is empty"),
        (lambda path: None, r"x\.txt: cannot be read \(No such file"),
        (lambda path: (path / "x.txt").mkdir(), r"x\.txt: no calibration file in this folder"),
        pytest.param(
            lambda path: os.mkfifo(path / "x.txt"),
            r"x\.txt: cannot be read \(not a regular file\)",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names"),
        ),
    ],
)
def test_a_path_that_gives_nothing(tmp_path: Path, prepare: Callable[[Path], None], message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(InputError, match=message):
        open_sources([tmp_path / "x.txt"])


def test_an_unknown_type_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.docx: type \.docx; expected one of \.txt \.md \.jsonl"):
        open_sources([tmp_path / "a.docx"])


def test_a_missing_built_in_set_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match="built-in calibration data is missing"):
        open_sources([])
