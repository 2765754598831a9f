"""`q3edge eval` as a user runs it: exit codes, the table, JSON, and a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

from q3edge.evaluation.scorecard.scorecard import scorecard_from_json
from tests.helpers.artifacts import overwritten

DEMO = Path(str(files("q3edge.data") / "demo_model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the artifact `int4`, the suites and the cache."""
    return tmp_path_factory.mktemp("eval")


def command(folder: Path, *arguments: object) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "Q3EDGE_CACHE": str(folder / "cache")}
    return [sys.executable, "-m", "q3edge", *map(str, arguments)], environment


def q3edge(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    line, environment = command(folder, *arguments)
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    result = q3edge(folder, "build", DEMO, "-o", folder / "int4", "--method", "rtn", "--max-tokens", 64)
    assert result.returncode == 0, result.stderr
    return folder / "int4"


@pytest.mark.slow
def test_table_and_json(folder: Path, artifact: Path) -> None:
    suite = folder / "sums.jsonl"
    suite.write_text('{"question": "What is 3 + 4?", "answer": "3 + 4 = 7\\n#### 7"}\n')
    (folder / "short.txt").write_text("Short.")
    arguments = ("eval", artifact, "--reference", DEMO, "--suite", suite, "--suite", folder / "short.txt")
    result = q3edge(folder, *arguments)
    assert result.returncode == 0, result.stderr
    for words in ("int4 against demo_model: recovery", "math", "sums", "brackets: 95 %", "dead_matrices"):
        assert words in result.stdout
    assert "texts of at most 16 tokens were left out" in result.stderr
    again = q3edge(folder, *arguments, "--json")
    assert again.returncode == 0
    assert "evaluated before" in again.stderr
    assert scorecard_from_json(json.loads(again.stdout)).suites["sums"].items == 1


@pytest.mark.slow
def test_a_table_of_thinking_budgets(folder: Path, artifact: Path) -> None:
    suite = folder / "few.jsonl"
    suite.write_text("".join((DEMO / "questions.jsonl").read_text().splitlines(keepends=True)[:6]))
    arguments = ("eval", artifact, "--reference", DEMO, "--suite", suite, "--thinking-budget", "none,4,0,4")
    result = q3edge(folder, *arguments)
    assert result.returncode == 0, result.stderr
    assert "thinking budgets: 6 questions, each answered with thinking and by itself" in " ".join(result.stdout.split())
    assert "thinking budget 0: 6 of 6 questions to answer" in result.stderr
    again = q3edge(folder, *arguments, "--json")
    assert "evaluated before" in again.stderr
    card = scorecard_from_json(json.loads(again.stdout))
    assert card.settings["generate"]["max_new_tokens"] == 4 + 512
    assert card.thinking_budgets is not None
    assert [found.budget for found in card.thinking_budgets.results] == [0, 4, None]
    assert len(card.thinking_budgets.questions) == 6


@pytest.mark.slow
def test_refused(folder: Path, artifact: Path) -> None:
    bad = folder / "bad.jsonl"
    bad.write_text('{"question": "?", "answer": "#### 1"}\n{\n')
    for code, words, arguments in (
        (2, "Missing option '--reference'", ("eval", artifact)),
        (2, "area 'maths': no suite has it", ("eval", artifact, "--reference", DEMO, "--areas", "maths")),
        (3, "bad.jsonl, line 2: not JSON", ("eval", artifact, "--reference", DEMO, "--suite", bad)),
        (3, "not found; expected a folder written by", ("eval", folder / "none", "--reference", DEMO)),
    ):
        result = q3edge(folder, *arguments)
        assert result.returncode == code, result.stderr
        assert result.stdout == ""
        assert words in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_dead_matrix_is_exit_code_5_and_the_table_is_there(folder: Path, artifact: Path) -> None:
    tensor = "model.layers.1.mlp.down_proj.codes"
    dead = overwritten(artifact, folder / "dead", tensor, bytes, slice(None))
    result = q3edge(folder, "eval", dead, "--reference", DEMO, "--limit", 5)
    assert result.returncode == 5
    assert "dead against demo_model: recovery" in result.stdout
    assert "1 weights are all zero or all alike: model.layers.1.mlp.down_proj" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_killed_and_repeated(folder: Path, artifact: Path) -> None:
    line, environment = command(folder, "eval", artifact, "--reference", DEMO, "--limit", 60, "--json")
    unfinished = folder / "cache" / "evaluations" / "unfinished"
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        while not (found := list(unfinished.glob("*.jsonl"))) or found[0].read_bytes().count(b"\n") < 3:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    result = q3edge(folder, *line[3:])
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["timing"]["resumed_items"] >= 3
    assert not list(unfinished.iterdir())
