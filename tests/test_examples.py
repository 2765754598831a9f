"""Every script in examples/ runs without arguments, offline, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# What each prints, as a pattern over its whole output.
SAYS = {
    "quantize_and_export": r"float: 5.91 MB\nint8: 3.18 MB, mean KL to float 0\.00\d+ nats\n"
    r"int4: 1.82 MB, mean KL to float 0\.\d+ nats\n",
    "generate_and_stream": r"continued: 7\nstreamed: 42\n2 tokens, ended by stop\n",
    "chat_with_thinking": r"What is 7 \+ 8\? 15 \(thought: '[^']*15'\)\n.*What is 7 \+ 8\? 15 \(thought: ''\)\n"
    r"What is 12 \+ 30\? 42 \(thought: ''\)\n",
    "choose_a_format": r"int8: 3.18 MB, .*\nint4: 1.82 MB, .*\nadvice: Ship int[48]: .*\nwithin 2 MB: int4\n",
    "rag": r"What does a cub grow into\? lion \(read: A cub grows into a lion\.\)\n.* white \(read: Snow is white\.\)\n"
    r"What does Mg stand for\? magnesium \(read: The symbol Mg stands for magnesium\.\)\n",
    "batch_and_evaluate": r"What is 3 \+ 4\? 7\n.* white\n.* lion\nknowledge: \d+ items, recovery [\d.]+ %\n"
    r"math: \d+ items, recovery [\d.]+ %\ngood enough\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_says_what_it_found(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
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
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40
