"""The data set that q3edge ships matches its README: nothing is dropped, nothing is shared with validation."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from q3edge.areas import AREAS
from q3edge.calibration.data import load_calibration_set
from q3edge.calibration.data.words import words_of
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import build_tokenizer
from tools.demo_model.chat_template import CHAT_TEMPLATE as QWEN3_RULES

DATA = Path(str(files("q3edge.data")))
RUN = 7  # words in a row that two independent texts hardly share


def records(area: str) -> list[dict[str, Any]]:
    lines = (DATA / "calibration" / f"{area}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines)
    return [json.loads(line) for line in lines]


def texts(record: dict[str, Any]) -> list[str]:
    messages = record.get("messages", [{"content": record.get("text")}])
    return [message[key] for message in messages for key in ("content", "reasoning_content") if key in message]


def runs(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}


def test_nothing_of_it_is_dropped_or_repaired() -> None:
    template = ChatTemplate(QWEN3_RULES, "qwen3")
    tokenizer = Tokenizer(build_tokenizer(), "tokenizer", 320)
    found = load_calibration_set((), tokenizer, template, samples=128, seq_len=512)
    template.close()
    assert found.token_ids.shape == (128, 512)
    assert found.notices == ()
    assert [source.name for source in found.sources] == sorted(f"{area}.jsonl" for area in AREAS)


def test_its_tokens_are_those_of_every_version() -> None:
    """Models that were calibrated on it can be made again: with the embedded model's tokenizer and template."""
    folder = DATA / "demo_model"
    template = ChatTemplate.load(folder)
    assert template is not None
    found = load_calibration_set((), Tokenizer.load(folder, 1280), template, samples=128, seq_len=512)
    template.close()
    assert found.digest == "013533d29bf8235e65f7467fac550e93854fac8ad418d202cf750e5b5ea740e0"


@pytest.mark.parametrize("area", AREAS)
def test_the_readme_counts_it(area: str) -> None:
    items = records(area)
    plain = sum("text" in item for item in items)
    answers = [m for item in items for m in item.get("messages", ()) if m["role"] == "assistant"]
    thoughts = sum("reasoning_content" in answer for answer in answers)
    row = f"| {len(items)} | {plain} | {len(items) - plain} | {len(answers)} ({thoughts}) |"
    readme = (DATA / "calibration" / "README.md").read_text(encoding="utf-8")
    assert row in next(line for line in readme.splitlines() if line.startswith(f"| `{area}.jsonl`"))


def test_it_shares_no_sentence_with_the_validation_text() -> None:
    validation = set().union(*(runs(path.read_text(encoding="utf-8")) for path in (DATA / "validation").glob("*.txt")))
    assert validation
    for area in AREAS:
        for record in records(area):
            assert not validation & set().union(*map(runs, texts(record)))


def test_its_python_compiles() -> None:
    fenced = [
        code
        for record in records("code")
        for t in texts(record)
        for code in re.findall(r"```python\n(.*?)```", t, re.S)
    ]
    assert len(fenced) > 10
    for number, code in enumerate(fenced):
        compile(code, f"block {number}", "exec")
