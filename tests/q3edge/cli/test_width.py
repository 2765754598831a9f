"""Everything fits a terminal of 80 columns: help pages, tables, long lines."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from q3edge.cli.layout import WIDTH, fitted, table
from q3edge.cli.main import cli
from q3edge.columns import columns

HEADER = ("variant", "MB", "of reference", "recovery (%)", "mean KL on the suites (nats)", "tokens/s")
ROW = ("int8-dynamic-g64", "12345.6", "100 %", "98.12 [97.11, 99.21]", "0.0123 [0.0112, 0.0134]", "< 1234.5")


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest.mark.parametrize("verb", ["", *cli.commands])
def test_must4_every_help_page_fits_whatever_the_terminal(verb: str) -> None:
    for wide in ("80", "200"):
        found = CliRunner().invoke(cli, [*verb.split(), "--help"], env={"COLUMNS": wide}, terminal_width=None)
        assert found.exit_code == 0
        assert widest(found.output) <= WIDTH


def test_must4_commands_are_listed_by_what_they_are_for_each_with_a_whole_line() -> None:
    page = CliRunner().invoke(cli, ["--help"], prog_name="q3edge").output
    titles = ["Make a model:", "Use it:", "Judge it:", "Share it:"]
    assert [line for line in page.splitlines() if line in titles] == titles
    listed = dict(re.findall(r"^  ([a-z]+) +([A-Z].*)$", page.partition(titles[0])[2], re.MULTILINE))
    assert listed.keys() == cli.commands.keys()
    assert all(line.endswith(".") and "..." not in line for line in listed.values())


def test_u16_a_table_that_fits_is_as_wide_as_its_cells() -> None:
    assert table(("a", "bb"), [("x", "1.5 [1, 2]")]) == "a          bb\n-  ----------\nx  1.5 [1, 2]"
    assert table(("a", "bb"), []) == "a  bb\n-  --"


@pytest.mark.parametrize("extra", range(7))
def test_u16_a_table_that_is_too_wide_breaks_no_number(extra: int) -> None:
    header, row = HEADER + ("further column",) * extra, ROW + ("1234567.8 [1234567.1, 1234568.2]",) * extra
    found = table(header, [row, row])
    assert widest(found) <= WIDTH
    words = found.split()
    for cell in row:
        for word in cell.split():
            assert words.count(word) >= 2


def test_u16_columns_of_wide_and_combining_characters_are_straight() -> None:
    rows = [("日本語のモデル", "1.5", "4"), ("cafe\u0301", "22.5", "8"), ("plain", "3", "16")]
    lines = table(("モデル", "MB", "bits"), rows).splitlines()
    assert {columns(line) for line in lines} == {14 + 2 + 4 + 2 + 4}
    for name, line in zip(("日本語のモデル", "cafe\u0301", "plain"), lines[2:]):
        assert line == name + " " * (14 - columns(name)) + line[len(name) + 14 - columns(name) :]


def test_u16_a_table_of_wide_characters_that_does_not_fit_is_broken_up() -> None:
    names = ["日本語" * 7, "中文" * 7]
    assert len(names[0]) + 2 + 40 < WIDTH < columns(names[0]) + 2 + 40
    found = table(("モデル", "x" * 40), [(name, "1") for name in names])
    assert found.splitlines()[0] == f"モデル: {names[0]}"


def test_u16_rows_that_fit_no_columns_are_paragraphs() -> None:
    name = "a-name-that-no-table-has-room-for" * 3
    assert table(("name", "MB", "bits"), [(name, "1.5", "4")]).splitlines() == [
        f"name: {name}",
        "  MB    1.5",
        "  bits  4",
    ]


def test_u16_a_command_stays_whole_to_be_copied() -> None:
    line = f"Run it: q3edge run {'a/b ' * 30}"
    assert fitted(line) == line


def test_u16_long_lines_are_broken_between_words() -> None:
    line = "   pass  mean_kl: " + "reason " * 30
    found = fitted(f"short\n{line}\n{'x' * 200}")
    assert found.split() == f"short {line} {'x' * 200}".split()
    assert max(map(len, found.splitlines()[:-1])) <= WIDTH
    assert found.splitlines()[2].startswith("     reason")
    assert fitted(f"  {'x' * 90}: why") == f"  {'x' * 90}:\n    why"
