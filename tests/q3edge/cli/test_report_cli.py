"""`report`, `check`, `sweep` and `diff` as a user runs them: exit codes, what is on stdout, files that appear."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from markupsafe import escape

from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_tokenizer

LIMITS = ("--areas", "math", "--limit", 5, "--no-speed", "--threads", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an int8 artifact of it, and a cache of their own."""
    folder = tmp_path_factory.mktemp("report")
    model = write_checkpoint(folder / "model")
    write_tokenizer(model)
    result = q3edge(folder, "build", model, "-o", folder / "int8", "--format", "int8", "--max-tokens", 256)
    assert result.returncode == 0, result.stderr
    return folder


def q3edge(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m q3edge` to its end, with the cache below `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "q3edge", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "Q3EDGE_CACHE": str(folder / "cache")},
    )


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    """The JSON of a report of the artifact."""
    files = ("-o", folder / "r.html", "--json-file", folder / "r.json", "--markdown", folder / "r.md", "--json")
    limits = ("--min-recovery", 1, "--max-kl", 5)
    result = q3edge(folder, "report", folder / "int8", "--reference", folder / "model", *files, *limits, *LIMITS)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((folder / "r.json").read_text())
    assert "wrote" in result.stderr
    return folder / "r.json"


def test_a_report_is_three_files_with_the_same_advice(folder: Path, report: Path) -> None:
    sentence = json.loads(report.read_text())["recommendation"]["sentence"]
    assert str(escape(sentence)) in (folder / "r.html").read_text(encoding="utf-8")
    assert (folder / "r.md").read_text(encoding="utf-8").startswith("## Ship int8")
    assert not list(folder.glob(".*partial*"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--max-kl", 5), 0, "pass  max_text_kl"),
        (("--max-kl", 1e-9), 5, "at most 1e-09 asked for"),
        (("--max-kl", 5, "--min-recovery", 1, "--scorecard", "REPORT"), 0, "pass  min_recovery"),
        (("--max-kl", 5, "--min-recovery", 500, "--scorecard", "REPORT"), 5, "at least 500 % asked for"),
        (("--min-recovery", 97), 2, "recovery was not measured"),
        ((), 2, "nothing to check"),
        (("--max-kl", 1, "--scorecard", "none.json"), 3, "not found"),
        (("--max-kl", 1, "--scorecard", "MARKDOWN"), 3, "); expected the JSON of `q3edge eval`"),
        (("--max-kl", 5, "--scorecard", "REPORT"), 0, "int8, by r.json"),
        (("--max-kl", 5, "--reference", "MODEL", *LIMITS[:4]), 0, "int8, by its evaluation against "),
        (("--max-kl", 1, "--scorecard", "REPORT", "--reference", "MODEL"), 2, "give one"),
        (("--min-recovery", 1, "--reference", "MODEL", *LIMITS[:4]), 0, "pass  min_recovery"),
    ],
)
def test_check_says_it_with_the_exit_code(
    folder: Path, report: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    named = {"REPORT": report, "MARKDOWN": report.with_suffix(".md"), "MODEL": folder / "model"}
    result = q3edge(folder, "check", folder / "int8", *(named.get(str(a), a) for a in arguments))
    assert result.returncode == code, result.stderr
    said = result.stdout + result.stderr
    assert words in said or words in " ".join(said.split())  # lines are broken where paths are long
    assert "Traceback" not in result.stderr


def test_a_report_says_why_none_passes(folder: Path, report: Path, tmp_path: Path) -> None:
    files = ("-o", tmp_path / "r.html", "--markdown", tmp_path / "r.md")
    measuring = ("--reference", folder / "model", "--min-recovery", 500, "--max-kl", 5, *LIMITS)
    result = q3edge(folder, "report", folder / "int8", *files, *measuring)
    assert result.returncode == 0, result.stderr
    sentence, why = result.stdout.split("\n\n")[:2]
    reason = " ".join(why.split()).removeprefix("Why none passes: ")
    assert sentence == "Ship none of these: no variant passes."
    assert reason.startswith("int8: recovery ")
    assert reason.endswith("at least 500 % asked for")
    assert f"Why none passes:\n\n- {reason}\n" in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "Why none passes" not in report.with_suffix(".md").read_text(encoding="utf-8")


def test_check_in_json(folder: Path, report: Path) -> None:
    result = q3edge(folder, "check", folder / "int8", "--max-kl", 1e-9, "--scorecard", report, "--json")
    assert result.returncode == 5
    (gate,) = json.loads(result.stdout)["results"]
    assert gate["status"] == "fail"
    assert gate["limit"] == 1e-9


def test_diff_of_an_artifact_with_its_copy(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "int8", tmp_path / "copy")
    result = q3edge(folder, "diff", folder / "int8", copy, "--max-tokens", 64, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["identical"]
    assert found["predictions"]["mean_kl"]["value"] == 0
    assert "Every file is the same" in q3edge(folder, "diff", folder / "int8", copy, "--max-tokens", 64).stdout


@pytest.mark.slow
def test_sweep_lists_failures_and_goes_on(folder: Path, tmp_path: Path) -> None:
    arguments = ("sweep", folder / "model", "-o", tmp_path / "s", "--method", "rtn", *LIMITS)
    result = q3edge(folder, *arguments, "--formats", "int8,int4-g128")
    assert result.returncode == 0, result.stderr
    assert "int4-g128: failed" in result.stdout
    again = q3edge(folder, *arguments, "--formats", "int8,int4-g128", "--json")
    assert json.loads(again.stdout)["resumed"] == ["int8"]
    assert "int8: finished before" in again.stderr
    nothing = q3edge(folder, *arguments, "--formats", "int4-g128")
    assert nothing.returncode == 5
    assert "every format failed" in nothing.stderr
    assert "int4-g128" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sweep", "MODEL", "-o", "OUT", "--formats", "int5"), 2, "int5"),
        (("sweep", "MODEL", "-o", "OUT"), 2, "nothing to build"),
        (("sweep", "./no/such/folder", "-o", "OUT", "--formats", "int8"), 3, "not found"),
        (("report", "-o", "OUT/r.html"), 2, "Missing argument"),
        (("report", "./no-such-folder", "-o", "OUT/r.html"), 3, "no-such-folder"),
        (("diff", "./no-such-folder", "./no-such-folder"), 3, "no-such-folder"),
        (("check", "./no-such-folder", "--max-kl", "1"), 3, "no-such-folder"),
    ],
)
def test_mistakes_write_nothing(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    out = tmp_path / "out"
    named = [str(a).replace("OUT", str(out)).replace("MODEL", str(folder / "model")) for a in arguments]
    result = q3edge(folder, *named)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert not out.exists()
