"""Records as data sets have them: uneven keys, calls, parts; a bad one is counted and the others are read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from q3edge.calibration.data import load_calibration_set
from q3edge.calibration.data.dialogues import DocumentEncoder
from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.files import SourceFile
from q3edge.calibration.data.quality import rejection
from q3edge.calibration.data.readers import read_documents
from q3edge.calibration.data.records import BadRecord, RecordPlace, question_and_answer, read_record
from q3edge.errors import InputError
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import TOOL_TEMPLATE, build_tokenizer

QUESTION = question_and_answer("2 + 3?", "5")
PLACE = RecordPlace(0, 1)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": [3, None]}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds <numbers>", "parameters": {}}}
ASKED = {"role": "user", "content": "2 + 3?"}


def document(record: dict[str, Any]) -> Document:
    found = read_record(record, PLACE)
    assert isinstance(found, Document), found
    return found


def problem(record: dict[str, Any]) -> str:
    found = read_record(record, PLACE)
    assert isinstance(found, BadRecord), found
    return str(found)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": None, "text": "hello"}, Document(0, 1, "hello")),
        ({"messages": [], "text": "hello"}, Document(0, 1, "hello")),
        ({"messages": [], "conversations": list(QUESTION)}, Document(0, 1, messages=QUESTION)),
        ({"question": None, "answer": None, "text": "hello"}, Document(0, 1, "hello")),
        ({"question": "2 + 3?", "answer": " ", "text": "hello"}, Document(0, 1, "hello")),
        ({"prompt": None, "completion": "x", "question": "2 + 3?", "answer": 5}, Document(0, 1, messages=QUESTION)),
        ({"text": "", "content": "hello"}, Document(0, 1, "hello")),
        ({"text": float("nan"), "content": "hello"}, Document(0, 1, "hello")),
        ({"Text": "hello", "text": None}, Document(0, 1, "hello")),
        ({"text": None, "Text": "hello"}, Document(0, 1, "hello")),
        ({"question": "2 + 3?", "answer": 0}, Document(0, 1, messages=question_and_answer("2 + 3?", "0"))),
        (
            {"prompt": "x = 1\n", "completion": None, "canonical_solution": "y\n"},
            Document(0, 1, "x = 1\ny\n", (), True),
        ),
        ({"instruction": "2 + 3?", "output": "5", "input": None}, Document(0, 1, messages=QUESTION)),
    ],
)
def test_q4_the_first_keys_that_have_a_value_count(record: dict[str, Any], expected: Document) -> None:
    assert document(record) == expected


@pytest.mark.parametrize(
    "record", [{"messages": []}, {"text": None}, {"question": "x", "answer": None}, {"text": float("nan")}]
)
def test_q4_a_record_of_known_keys_without_values_is_empty(record: dict[str, Any]) -> None:
    assert rejection(document(record)) == "empty"


def test_q4_uneven_columns_of_a_parquet_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = [
        {"messages": list(QUESTION)},
        {"text": "hello"},
        {"question": "2 + 3?", "answer": "5"},
    ]
    keys = ("messages", "text", "question", "answer")
    table = pyarrow.table({key: [row.get(key) for row in rows] for key in keys})
    parquet.write_table(table, tmp_path / "a.parquet")
    found, bad = read_documents(SourceFile("a.parquet", (tmp_path / "a.parquet").read_bytes()), 0)
    assert found == [Document(0, 1, messages=QUESTION), Document(0, 2, "hello"), Document(0, 3, messages=QUESTION)]
    assert not bad


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "Be exact."}, {"role": "system", "content": "Be exact."}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": None}]},
            {"role": "user", "content": "a\nb"},
        ),
        ({"role": "user", "content": ["a", {"text": "b"}]}, {"role": "user", "content": "a\nb"}),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL | {"id": "c1", "index": 0}], "name": None},
            {"role": "assistant", "content": "", "tool_calls": [CALL | {"id": "c1"}]},
        ),
        (
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ),
        (
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ),
        ({"from": "observation", "value": "5"}, {"role": "tool", "content": "5"}),
        ({"role": "function", "name": "add", "content": "5"}, {"role": "tool", "content": "5", "name": "add"}),
        ({"role": "assistant", "content": "5", "tool_calls": []}, {"role": "assistant", "content": "5"}),
    ],
)
def test_q10_forms_of_a_message(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert document({"messages": [ASKED, message]}).messages == (ASKED, expected)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "a part of kind 'image_url'; only parts",
        ),
        ({"role": "user", "content": None}, "content of type null"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "of role user has tool calls"),
        ({"role": "assistant", "tool_calls": [{"type": "function"}]}, "a tool call without a name"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": 3}]}, "arguments of type a number"),
        ({"from": "function_call", "value": "add(2, 3)"}, "content is not valid JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": b"y"}}]}, "holds bytes"),
    ],
)
def test_q10_what_cannot_be_used_is_named(message: dict[str, Any], expected: str) -> None:
    assert problem({"messages": [ASKED, message]}).startswith("line 1: messages[1] ")
    assert expected in problem({"messages": [ASKED, message]})


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_q10_tools_are_those_of_the_record(tools: object) -> None:
    assert document({"messages": [ASKED], "tools": tools}).tools == (TOOL,)
    assert document({"messages": [ASKED], "functions": [TOOL["function"]], "tools": None}).tools == (TOOL,)
    missing: tuple[object, ...] = (None, math.nan, " ", [], "[]")  # a table's missing value is NaN
    for nothing in missing:
        assert document({"messages": [ASKED | {"name": math.nan}], "tools": nothing}).tools == ()
    assert "tools is an object" in problem({"messages": [ASKED], "tools": {"a": 1}})


@pytest.mark.parametrize("arguments", [{"a": 2, "b": ["<3>", None]}, '{"a":  2}'])
@pytest.mark.parametrize("thoughts", [{}, {"reasoning_content": "I add."}])
def test_q10_calls_are_rendered_as_transformers_does(arguments: object, thoughts: dict[str, str]) -> None:
    messages = [
        {"role": "system", "content": "Be exact."},
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": arguments}}]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "It is 5.", **thoughts},
    ]
    expected, _ = render_jinja_template([messages], tools=[TOOL], chat_template=TOOL_TEMPLATE)
    chat = ChatTemplate(TOOL_TEMPLATE, "template")
    tokenizer = Tokenizer(build_tokenizer(), "tokenizer", 320)
    ids = DocumentEncoder(tokenizer, chat).encode(document({"messages": messages, "tools": [TOOL]}))
    chat.close()
    assert tokenizer._full.decode(ids, skip_special_tokens=False) == expected[0]


def test_q10_a_dialogue_of_calls_says_something() -> None:
    calls = [ASKED, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": ""}]
    found = document({"messages": calls})
    assert rejection(found) is None
    assert found.plain_text == '2 + 3?\n\nadd {"a": 2, "b": [3, null]}'


def test_q10_only_the_bad_record_is_dropped_and_shown(tmp_path: Path) -> None:
    sums: list[dict[str, Any]] = [
        {"messages": question_and_answer(f"What is {n} + {n}?", f"It is {2 * n}.")} for n in range(100, 140)
    ]
    sums[7:7] = [{"messages": [{"role": "boss", "content": "x"}]}, {"messages": []}]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in sums))
    tokenizer = Tokenizer(build_tokenizer(), "tokenizer", 320)
    found = load_calibration_set([path], tokenizer, None, samples=4, seq_len=16)
    assert found.sources[0].dropped == {"bad-record": 1, "empty": 1}
    assert (found.sources[0].read, found.sources[0].kept) == (42, 40)
    notice = next(notice for notice in found.notices if notice.code == "calibration-bad-record")
    assert notice.count == 1
    assert "the first is chats.jsonl: line 8: messages[0] has role 'boss'" in notice.detail
    assert str(tmp_path) not in notice.detail


def table(name: str, text: str) -> tuple[list[Document], list[BadRecord]]:
    return read_documents(SourceFile(name, text.encode()), 0)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_q6_the_delimiter_is_the_one_that_gives_a_header(name: str, delimiter: str) -> None:
    other = "," if delimiter != "," else ";"
    rows = [["id", "Question", "Answer"], ["1", f"2 + 3{other} or what?", "5"]]
    found, bad = table(name, "\n".join(map(delimiter.join, rows)))
    assert [found[0].messages[0]["content"], found[0].messages[1]["content"]] == [f"2 + 3{other} or what?", "5"]
    assert not bad


def test_q6_of_columns_of_one_name_the_first_that_says_anything_counts(tmp_path: Path) -> None:
    found, bad = table("a.csv", "text,text\nhello,\n,world\n")
    assert ([d.text for d in found], bad) == (["hello", "world"], [])
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table([["hello"], ["world"]], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="two columns have the name 'text'; rename one"):
        read_documents(SourceFile("a.parquet", (tmp_path / "a.parquet").read_bytes()), 0)


def test_q6_a_row_with_a_surplus_cell_is_counted_by_its_line() -> None:
    found, bad = table("a.csv", "text,language\nhello,en\nhello, world,en\nagain\n")
    assert [d.text for d in found] == ["hello", "again"]
    assert [str(b) for b in bad] == ["line 3: 3 cells where the first row has 2; check delimiters and quotes"]
    found, bad = table("a.csv", "hello\nhello, world\n")
    assert [d.text for d in found] == ["hello"]
    assert len(bad) == 1
    with pytest.raises(InputError, match=r"^a\.csv: line 2: 2 cells where the first row has 1; check delimiters"):
        table("a.csv", "text\nhello, world\n")


@pytest.mark.parametrize("text", ["text\n{}\n", "{}\n", "text,language\n{},en\n"])
def test_q6_a_long_cell_is_read(text: str) -> None:
    cell = "word " * 40_000
    found, bad = table("a.csv", text.format(cell))
    assert (found[0].text, bad) == (cell, [])
