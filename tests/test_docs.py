"""The documentation says what is so: examples of docs/library.md run, docs/cli.md is what click says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import q3edge
from q3edge.cli.main import cli
from tools import readme_figures
from tools.cli_reference import COMMAND, PAGE, reference, with_settings_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
LIBRARY = DOCS / "library.md"
README = DOCS.parent / "README.md"


def python_blocks(page: Path) -> Iterator[tuple[int, str]]:
    """(Number of the line before it, code) of each block of Python."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: found.start(1)].count("\n"), found[1]


@pytest.mark.slow
def test_the_examples_of_the_library_page_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    blocks = list(python_blocks(LIBRARY))
    assert len(blocks) >= 6
    for line, code in blocks:
        padded = "\n" * line + code  # a traceback then shows the page's own line
        exec(compile(padded, str(LIBRARY), "exec"), names)
    captured = capsys.readouterr()
    assert "% of the float model's score" in captured.out
    assert "group_size = 48" in captured.out
    assert "write: started" in captured.err
    assert (tmp_path / "report.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "cache", "calibrated", "int4", "int8", "weights",
    ]  # fmt: skip


@pytest.mark.slow
def test_u6_readme_s_python_and_prompts_work_with_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen3-0.6B").symlink_to(str(files("q3edge.data") / "demo_model"))
    ((_, code),) = python_blocks(README)
    assert len([line for line in code.splitlines() if line]) <= 5
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "Tokyo\n"
    prompts = set(re.findall(r'q3edge run \S+ "(.+?)"', README.read_text(encoding="utf-8")))
    assert prompts == {"What is the capital of Japan?"}  # which the lines above ask


def test_the_chart_of_readme_is_drawn_from_the_table_of_the_benchmarks() -> None:
    drawn = readme_figures.chart(readme_figures.rows(readme_figures.TABLE.read_text(encoding="utf-8")))
    assert readme_figures.CHART.read_text(encoding="utf-8") == drawn, f"run: {readme_figures.COMMAND}"
    assert "prefers-color-scheme: dark" in drawn
    with pytest.raises(SystemExit, match="a row of the chart's table is not tool, variant, MB, KL"):
        readme_figures.rows(f"{readme_figures.COMMAND} -->\n\n| a |\n|---|\n| not a row |\n")


def test_the_library_page_lists_every_public_name() -> None:
    table = LIBRARY.read_text(encoding="utf-8").partition("## All names")[2]
    listed = set(re.findall(r"`(\w+)`", table.replace("q3edge report", "")))
    assert listed == set(q3edge.__all__)


def test_the_command_line_reference_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), f"docs/cli.md is out of date; run: {COMMAND}"


def test_the_library_page_has_every_setting_of_generation() -> None:
    page = LIBRARY.read_text(encoding="utf-8")
    assert "| `repetition_penalty` |" in page
    assert page == with_settings_table(page), f"docs/library.md is out of date; run: {COMMAND}"


def test_the_command_line_reference_has_every_verb_and_flag() -> None:
    page = reference()
    for name, command in cli.commands.items():
        section = page.partition(f"## q3edge {name}\n")[2].partition("\n## ")[0]
        for flag in (flag for param in command.params for flag in param.opts if flag.startswith("-")):
            assert f"`{flag}" in section or f", {flag}" in section, f"{name} {flag}"
