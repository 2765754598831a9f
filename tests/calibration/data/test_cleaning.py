"""Cleaning, passages, the quality rules and tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q3edge.calibration.data.cleaning import clean_document, clean_text, passages
from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.quality import prose_rejection, rejection
from q3edge.calibration.data.records import question_and_answer
from q3edge.calibration.data.tagging import is_source_code, tag_document
from q3edge.calibration.data.words import words_of

PROSE = (
    "The harbour was quiet in the early morning. A few boats came back with the night's catch, and the women who "
    "sold fish at the market were already waiting on the pier with their baskets and their knives."
)
PROGRAM = "def area(width, height):\n    result = width * height\n    return result\n\n\nprint(area(2, 3))\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("e\u0301", "\u00e9"),
        ("a\u200bb\ufeffc\x00d\x1be\u00adf\u202eg", "abcdefg"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a  \t\n\n\n\n\nb \n", "a\n\nb"),
        ("half \ud83d character", "half \ufffd character"),
        ("<b>bold</b> &amp; more", "<b>bold</b> &amp; more"),
        ("48/2 = <<48/2=24>>24", "48/2 = 24"),
        ("cout << a = b >> c", "cout << a = b >> c"),
        ("1 << 2 >> 1", "1 << 2 >> 1"),
        (
            ' It is 3 @.@ 5 m long , red @-@ tipped ( the " tail " ) and it \'s 1 @,@ 000 g . \n',
            'It is 3.5 m long, red-tipped (the "tail") and it\'s 1,000 g.',
        ),
        ("left , right", "left , right"),  # no mark of WikiText
    ],
)
def test_clean_text(raw: str, expected: str) -> None:
    assert clean_text(raw) == expected


def test_code_keeps_its_layout() -> None:
    assert clean_text("\n    x = 1  \n\n\n\n\ny\n", keep_layout=True) == "    x = 1\n\n\ny"


@given(st.text(), st.booleans())
def test_cleaning_twice_changes_nothing(text: str, keep_layout: bool) -> None:
    clean = clean_text(text, keep_layout=keep_layout)
    clean.encode("utf-8")
    assert clean_text(clean, keep_layout=keep_layout) == clean


def test_messages_are_cleaned_and_damage_is_reported() -> None:
    document, damaged = clean_document(Document(0, 1, messages=question_and_answer("a\u200b", "b  \n")))
    assert [message["content"] for message in document.messages] == ["a", "b"]
    assert damaged
    assert not clean_document(Document(0, 1, "a  \r\n"))[1]


@given(st.text(st.sampled_from("ab .\n"), max_size=300), st.integers(4, 50))
def test_passages_keep_every_word_character(text: str, size: int) -> None:
    parts = list(passages(Document(0, 1, text), size))
    assert "".join("".join(part.text.split()) for part in parts) == "".join(text.split())
    assert all(len(part.text) <= size for part in parts)


def test_passages_end_at_the_best_border() -> None:
    text = "One two. Three four.\n\nFive six. Seven eight nine ten"
    assert [d.text for d in passages(Document(0, 1, text), 30)] == [
        "One two. Three four.",
        "Five six. Seven eight nine ten",
    ]
    assert [d.text for d in passages(Document(0, 1, text[22:]), 16)] == ["Five six.", "Seven eight", "nine ten"]
    code = Document(0, 1, text, is_code=True)
    assert list(passages(code, 30)) == [code]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("Too short to learn from.", "too-short"),
        ("12 + 7 = 19 * 4 / 2 - 3 % 5 ( 8 ) 1 2 3 4 5 6 7 8 9 10 11", "symbols"),
        ("a1 b2 | c3 --- d4 *** e5 === f6 ### g7 ~~~ h8 ;;; i9 j10 k11 l12 m13", "symbols"),
        ("Buy now and save a lot of money today!\n" * 8, "repetitive"),
        (" ".join(f"buy it {word}" for word in words_of(PROSE)), "repetitive"),
        (PROSE + " " + PROSE, "repetitive"),
        ("海风从港口吹来，清晨的渔船一艘接一艘地回到码头，卖鱼的妇女们早已提着篮子等在那里。", None),
        ("好的。", "too-short"),
        ("เช้าตรู่ท่าเรือยังเงียบสงบ เรือประมงหลายลำทยอยกลับเข้าฝั่งพร้อมปลาที่จับได้เมื่อคืน", None),
    ],
)
def test_quality_of_prose(text: str, reason: str | None) -> None:
    assert prose_rejection(text) == reason


def test_dialogues_code_and_maths_only_must_not_be_empty() -> None:
    assert rejection(Document(0, 1, messages=question_and_answer("2+2", "4"))) is None
    assert rejection(Document(0, 1, messages=question_and_answer("2+2", " "))) == "empty"
    assert rejection(Document(0, 1, messages=({"role": "system", "content": "x"},))) == "empty"
    assert rejection(Document(0, 1, "x = 1", is_code=True)) is None
    assert rejection(Document(0, 1, "1 + 1 = 2", area="math")) is None
    assert rejection(Document(0, 1, "  ")) == "empty"


@pytest.mark.parametrize(
    ("document", "area", "language"),
    [
        (Document(0, 1, PROSE), "knowledge", "en"),
        (Document(0, 1, PROGRAM), "code", "code"),
        (Document(0, 1, PROSE, is_code=True), "code", "code"),
        (Document(0, 1, f"Try this:\n```python\n{PROGRAM}```\n"), "code", "code"),
        (Document(0, 1, "So 3 + 4 = 7, and with x = 2 we get $x^2 = 4$."), "math", "en"),
        (
            Document(0, 1, messages=question_and_answer("She has 3 pens and buys 4. How many are there?", "7")),
            "math",
            "en",
        ),
        (Document(0, 1, messages=question_and_answer("When did the war end?", "In 1945")), "knowledge", "en"),
        (
            Document(0, 1, messages=question_and_answer("Wie viele sind es am Ende: 3 und 4?", "7")),
            "multilingual",
            "de",
        ),
        (Document(0, 1, PROSE, area="safety"), "safety", "en"),
        (Document(0, 1, PROSE, language="de"), "multilingual", "de"),
        (Document(0, 1, PROGRAM, area="knowledge"), "knowledge", "und"),
    ],
)
def test_tags(document: Document, area: str, language: str) -> None:
    tagged = tag_document(document)
    assert (tagged.area, tagged.language) == (area, language)


def test_prose_about_code_is_prose() -> None:
    assert not is_source_code("if we go\nfor a walk\nwith the dog\nuse the lead")
    assert not is_source_code("x = 1")
