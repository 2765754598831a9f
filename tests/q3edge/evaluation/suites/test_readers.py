"""Readers: every format as published, told apart by name and first line; what differs is named with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from q3edge.errors import InputError
from q3edge.evaluation.suites.readers import READERS, recognise
from q3edge.evaluation.suites.suite import Item
from q3edge.evaluation.suites.suite_files import built_in_suites, read_suite, read_suites
from q3edge.storage.text_files import read_utf8

GSM8K = {"question": "Ann has 3 pens and buys 4. How many now?", "answer": "She has 3+4=<<3+4=7>>7 pens.\n#### 7"}
HUMANEVAL = {
    "task_id": "HumanEval/0", "prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n",
    "test": "def check(f):\n    assert f(1, 2) == 3\n", "entry_point": "add",
}  # fmt: skip
QUESTION = {"id": "a-1", "area": "code", "language": "en", "thinking": True, "question": "1+1?", "answer": "2"}
CHINESE = ",Question,A,B,C,D,Answer\n0,下列哪一个城市是中国的首都,上海,北京,广州,深圳,B\n"


def write(folder: Path, name: str, *lines: object) -> Path:
    path = folder / name
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def items(path: Path) -> tuple[Item, ...]:
    return read_suite(path).items


def test_gsm8k(tmp_path: Path) -> None:
    (item,) = items(write(tmp_path, "grade.jsonl", GSM8K, ""))
    assert (item.id, item.kind, item.area, item.language) == ("grade-1", "answer", "math", "en")
    assert item.answer == "She has 3+4=7 pens.\n#### 7"
    assert (item.final, item.answer_format) == ("7", "number")


@pytest.mark.parametrize(
    ("name", "area", "language"),
    [("mgsm_sw.tsv", "multilingual", "sw"), ("mgsm_en.tsv", "math", "en"), ("other.tsv", "multilingual", "de")],
)
def test_mgsm(tmp_path: Path, name: str, area: str, language: str) -> None:
    (item,) = items(write(tmp_path, name, "Wie viel verdient sie an jedem Tag auf dem Markt mit den Eiern?\t1,800\r"))
    assert (item.area, item.language, item.final, item.answer_format) == (area, language, "1,800", "number")


def test_humaneval(tmp_path: Path) -> None:
    (item,) = items(write(tmp_path, "programs.jsonl", HUMANEVAL))
    assert (item.id, item.kind, item.area) == ("HumanEval/0", "code", "code")
    assert item.answer == "    return a + b\n"
    assert (item.entry_point, item.test) == ("add", HUMANEVAL["test"])


@pytest.mark.parametrize(
    "lines",
    [
        (",Question,A,B,C,D,Answer", '0,"Which is a noble gas,\nsay?",iron,neon,zinc,lead,B'),
        ("question,a,b,c,d,answer", '"Which is a noble gas,\nsay?",iron,neon,zinc,lead,b'),
        ('"Which is a noble gas,\nsay?",iron,neon,zinc,lead,B',),
        ('7,"Which is a noble gas,\nsay?",iron,neon,zinc,lead,B',),
    ],
)
def test_choice(tmp_path: Path, lines: tuple[str, ...]) -> None:
    (item,) = items(write(tmp_path, "chemistry.csv", *lines))
    assert (item.kind, item.area, item.final) == ("choice", "knowledge", "B")
    assert item.choices == ("iron", "neon", "zinc", "lead")
    assert "say?\nA. iron\nB. neon\nC. zinc\nD. lead\nAnswer with the letter" in item.prompt


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_q6_choices_with_another_delimiter(tmp_path: Path, delimiter: str) -> None:
    (item,) = items(write(tmp_path, "geography.csv", CHINESE.replace(",", delimiter)))
    assert item.choices == ("上海", "北京", "广州", "深圳")


def test_choice_in_chinese(tmp_path: Path) -> None:
    (item,) = items(write(tmp_path, "geography.csv", CHINESE))
    assert item.language == "zh"
    assert item.prompt.endswith("请直接回答正确选项的字母。")


def test_own_questions_and_plain_answers(tmp_path: Path) -> None:
    (own,) = items(write(tmp_path, "own.jsonl", QUESTION))
    assert (own.id, own.area, own.thinking, own.final) == ("a-1", "code", True, "2")
    (plain,) = items(write(tmp_path, "plain.jsonl", {"question": "1+1?", "answer": " two "}))
    assert (plain.answer_format, plain.final) == ("text", "two")


def test_text(tmp_path: Path) -> None:
    text = "The harbour was quiet in the morning and a few boats came back with the catch."
    (item,) = items(write(tmp_path, "story.txt", text))
    assert (item.id, item.kind, item.language, item.prompt) == ("story", "text", "en", text)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.jsonl", (GSM8K, "{"), r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", (GSM8K, "[]"), r"line 2: expected a JSON object"),
        ("a.jsonl", (GSM8K, "", {"question": "?", "answer": "7"}), "line 3: answer: expected a last line"),
        ("a.jsonl", (HUMANEVAL, {**HUMANEVAL, "test": 3}), "line 2: test: expected text"),
        ("a.jsonl", ({"text": "x"},), "line 1: fields text; expected question and answer"),
        ("a.jsonl", (QUESTION, {**QUESTION, "thinking": 1}), "line 2: expected an object with id, area"),
        ("a.jsonl", (QUESTION, QUESTION), "2 items have the id 'a-1'"),
        ("a.jsonl", ("",), "fields none"),
        ("a.tsv", ("Wie viele?\t3", "Wie viele?"), "line 2: expected a question, one tab"),
        ("a.tsv", ("",), "no items"),
        ("a.csv", (CHINESE, "1,问题,a,b,c,d,E"), "line 4: answer 'E': expected one of A, B, C, D"),
        ("a.csv", (CHINESE, "1,问题,a,b,A"), "line 4: 5 cells; expected question, 4 choices, answer"),
        ("a.csv", ("a,b",), "line 1: 2 cells"),
        ("a.csv", (CHINESE, '1,"问题'), "not CSV"),
        ("a.txt", (" ",), "no items"),
        ("a.parquet", ("x",), r"expected \.jsonl, \.tsv, \.csv or \.txt data"),
    ],
)  # fmt: skip
def test_what_differs_is_named(tmp_path: Path, name: str, lines: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_suite(write(tmp_path, name, *lines))


def test_not_text_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(InputError, match=r"a\.txt, line 1: not UTF-8 text \(byte 3\)"):
        read_suite(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"b\.txt: cannot be read"):
        read_suite(tmp_path / "b.txt")


def test_header_sets_what_the_data_does_not_say(tmp_path: Path) -> None:
    data = write(tmp_path, "a.jsonl", {"question": "Wie heißt die Hauptstadt?", "answer": "Paris"})
    write(tmp_path, "b.jsonl", {"question": "Und der Fluss?", "answer": "Seine"})
    header = write(
        tmp_path, "s.toml", 'name = "geography"', 'area = "safety"', 'language = "de"', 'reader = "answers"',
        'files = ["a.jsonl", "b.jsonl"]', "prompt = '{question} Antworte als JSON: {\"ort\": ...}'",
        'answer_format = "json"', 'source = "own"',
    )  # fmt: skip
    suite = read_suite(header)
    assert (suite.name, suite.source) == ("geography", "own")
    assert [(item.id, item.area, item.language, item.answer_format) for item in suite.items] == [
        ("a-1", "safety", "de", "json"), ("b-1", "safety", "de", "json"),
    ]  # fmt: skip
    assert suite.items[0].prompt == 'Wie heißt die Hauptstadt? Antworte als JSON: {"ort": ...}'
    digest = suite.digest
    write(tmp_path, "a.jsonl", {"question": "Wie heißt die Hauptstadt?", "answer": "Rom"})
    assert read_suite(header).digest != digest
    assert recognise(data, read_utf8(data)) is READERS["answers"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("files = [",), "not valid TOML"),
        (('file = ["a.jsonl"]',), "file: unknown key; expected name, area"),
        (("name = 'x'",), "files: expected a list"),
        (('files = ["a.jsonl"]', "area = 3"), "area = 3: expected text"),
        (('files = ["a.jsonl"]', 'reader = "x"'), "reader = 'x': expected one of answers, choice"),
        (('files = ["a.jsonl"]', 'prompt = "x"'), "prompt: expected a text with {question}"),
        (('files = ["a.jsonl"]', 'answer_format = "x"'), "answer_format = 'x': expected one of text, number, json"),
        (('files = ["b.jsonl"]',), r"b\.jsonl: cannot be read"),
        (('files = ["a.jsonl"]', 'reader = "mgsm"'), r"a\.jsonl, line 1: expected a question, one tab"),
    ],
)
def test_wrong_header(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    write(tmp_path, "a.jsonl", GSM8K)
    with pytest.raises(InputError, match=message):
        read_suite(write(tmp_path, "s.toml", *lines))


def test_two_suites_with_one_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [write(tmp_path, "a.jsonl", GSM8K), write(tmp_path / "b", "a.jsonl", GSM8K)]
    with pytest.raises(InputError, match="2 suites are called 'a'"):
        read_suites(paths)


def test_built_in_suites_cover_the_weighted_areas() -> None:
    asked, texts = built_in_suites()
    assert len(asked.items) == 300
    assert {item.area for item in asked.items} == {item.area for item in texts.items}
    assert {item.area for item in texts.items} == {"knowledge", "math", "code", "multilingual", "safety"}
    assert built_in_suites()[0].digest == asked.digest
