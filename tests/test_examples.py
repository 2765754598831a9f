"""Every script in examples/ runs without arguments, offline, and says what it promises."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from q3edge.runtime.completion import Completion
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.text.message_checks import check_message, check_tools
from q3edge.runtime.text.messages import Message, Tool
from q3edge.runtime.text.tool_calls import CalledTool, CallSplitter
from tests.helpers.programs import kernel_or_skip

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# What each prints, as a pattern over its whole output.
SAYS = {
    "quantize_and_export": r"float: 5.91 MB\nint8: 3.18 MB, mean KL to float 0\.00\d+ nats\n"
    r"int4: 1.82 MB, mean KL to float 0\.\d+ nats\n",
    "generate_and_stream": r"continued: 7\nstreamed: 42\n2 tokens, ended by stop\n",
    "chat_with_thinking": r"What is 7 \+ 8\? 15 \(thought: '[^']*15'\)\n.*What is 7 \+ 8\? 15 \(thought: ''\)\n"
    r"What is 12 \+ 30\? 42 \(thought: ''\)\n",
    "code_agent": r"What is 12 \+ 30\? 42\n",
    "choose_a_format": r"int8: 3.18 MB, .*\nint4: 1.82 MB, .*\nadvice: Ship int[48]: .*\nwithin 2 MB: int4\n",
    "rag": r"What does a cub grow into\? lion \(read: A cub grows into a lion\.\)\n.* white \(read: Snow is white\.\)\n"
    r"What does Mg stand for\? magnesium \(read: The symbol Mg stands for magnesium\.\)\n",
    "batch_and_evaluate": r"What is 3 \+ 4\? 7\n.* white\n.* lion\nknowledge: \d+ items, recovery [\d.]+ %\n"
    r"math: \d+ items, recovery [\d.]+ %\ngood enough\n",
    # What a conversation and the ones before it have in common are at most 10 tokens: 20 are of the same replica.
    "ray_serve": "".join(f"{animal}: 7, 20 tokens were cached\n" for animal in ("cat", "dog", "cow", "pig"))
    + ".*",  # Ray's own messages at its end
}
NEEDS = {"ray_serve": "ray.serve"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_says_what_it_found(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SAYS[name], done.stdout, re.DOTALL), done.stdout
    assert list(tmp_path.glob("tmp*")) == []  # nothing of the example stays


def test_every_example_is_short_and_tested() -> None:
    scripts = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert scripts.keys() == SAYS.keys()
    for path in scripts.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) < (
            80 if path.stem in ("code_agent", "ray_serve") else 40
        )


class Scripted:
    """Model that gives prepared answers, with calls of tools in Qwen3's form, and keeps what it is asked."""

    def __init__(self, *answers: str) -> None:
        self._left = iter(answers)
        self.asked: list[list[Message]] = []

    def chat(self, messages: list[Message], _settings: object, *, tools: list[Tool]) -> Completion:
        check_tools(tools)
        for message in messages:
            check_message(message)
        self.asked.append(list(messages))
        splitter, said = CallSplitter(), next(self._left)
        found = [*splitter.push(said), *splitter.finish()]
        calls = tuple(part for part in found if isinstance(part, CalledTool))
        text = "".join(part for part in found if isinstance(part, str))
        return Completion(said, "", text, (), Statistics(), tool_calls=calls)


def called(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.fixture(scope="module")
def agent() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "code_agent.py"))


def test_the_agent_gives_results_of_its_tools_back_until_there_is_an_answer(
    agent: dict[str, Any], tmp_path: Path
) -> None:
    kernel_or_skip()
    (tmp_path / "numbers.txt").write_text("12 30")
    program = "print(12 + 30)\nimport os\nos.fork()"
    model = Scripted(
        "I look.\n" + called("read_file", path="numbers.txt") + called("run_python", code=program), "It is 42."
    )
    assert agent["answer"](model, "What is the sum?", tmp_path) == "It is 42."
    question, call, *results = model.asked[1]
    assert (question["content"], call["content"], len(call["tool_calls"])) == ("What is the sum?", "I look.", 2)
    assert [result["tool_call_id"] for result in results] == [sent["id"] for sent in call["tool_calls"]]
    assert results[0]["content"] == "12 30"
    assert str(results[1]["content"]).startswith("42\nPermissionError")


@pytest.mark.parametrize(
    "call",
    [
        called("read_file", path="../secret.txt"),
        called("read_file", path="link/secret.txt"),
        called("read_file", path="link.txt"),
        called("read_file", path="/etc/passwd"),
        called("read_file", path="."),
        called("read_file", path="a\0b"),
        called("read_file", path=3),
        called("read_file"),
        called("read_file", path="x" * 5000),
        called("run_python"),
        called("format_disk", path="."),
    ],
)
def test_no_call_leaves_the_agent_s_folder_or_ends_it(agent: dict[str, Any], tmp_path: Path, call: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    model = Scripted(call, "So be it.")
    assert agent["answer"](model, "Go on.", folder) == "So be it."
    assert str(model.asked[1][-1]["content"]).startswith("error: ")


def test_the_agent_ends_a_model_that_only_calls(agent: dict[str, Any], tmp_path: Path) -> None:
    model = Scripted(*[called("read_file", path="a")] * agent["MOST_TURNS"])
    assert agent["answer"](model, "Go on.", tmp_path) == f"no answer after {agent['MOST_TURNS']} turns"
