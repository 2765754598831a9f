"""Docs as text: one paragraph a line, files that they name exist, and every decision is in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "tools/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
_NAMED = re.compile(r"`((?:benchmarks|calibration|docs|examples|exporters|q3edge|tests|tools)/[\w./-]+)`")


def hard_wraps(text: str) -> list[int]:
    """First lines (from 1) of paragraphs, list items and headings that go on in the next line."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [token.map[0] + 1 for token in tokens if token.map and token.type == "inline" and "\n" in token.content]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_paragraph_is_one_line(name: str) -> None:
    assert hard_wraps((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files_exist(name: str) -> None:
    named = _NAMED.findall((ROOT / name).read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one\ntwo\n", [1]),
        ("# title\n\n* item\n  goes on\n* other\n", [3]),
        ("one\n\ntwo\n\n```\na\nb\n```\n\n| a |\n|---|\n| b |\n\n<!-- x\ny -->\n\n    code\n    code\n", []),
    ],
)
def test_hard_wraps_are_told_from_blocks(text: str, lines: list[int]) -> None:
    assert hard_wraps(text) == lines


def test_the_index_has_every_decision_with_its_date_and_title() -> None:
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(
        r"^\| (\d{4}-\d\d-\d\d) \| \[(.+?)\]\((\S+)\) \| .+ \| (\w+)", (folder / "README.md").read_text(), re.M
    )
    assert [file for _, _, file, _ in rows] == sorted(path.name for path in folder.glob("20*.md"))
    for date, title, file, status in rows:
        heading = (folder / file).read_text(encoding="utf-8").partition("\n")[0]
        assert file.startswith(date)
        assert heading.startswith(f"# {title}"), file
        assert status in {"accepted", "superseded"}
