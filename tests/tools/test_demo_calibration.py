"""The embedded model's calibration text: what the tool writes, never a held-out question, and tokens as in training."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest

from q3edge.calibration.data import load_calibration_set
from q3edge.calibration.data.dialogues import DocumentEncoder
from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.records import RecordPlace, read_record
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from tools.demo_model import calibration
from tools.demo_model.calibration import AREAS, record, records
from tools.demo_model.curriculum import MIX, dialogue, example, questions

MODEL = Path(str(files("q3edge.data") / "demo_model"))
COMMITTED = MODEL / "calibration.jsonl"
SWITCHES = (" /think", " /no_think")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(MODEL, 1280)


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    template = ChatTemplate.load(MODEL)
    assert template is not None
    yield template
    template.close()


def test_the_committed_file_is_the_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["calibration", "--out", str(tmp_path / "calibration.jsonl")])
    calibration.main()
    assert (tmp_path / "calibration.jsonl").read_bytes() == COMMITTED.read_bytes()
    assert list(records(8, 20)) != list(records(7, 20))


def test_no_line_asks_a_held_out_question() -> None:
    held_out = {question.question for question in questions()}
    lines = COMMITTED.read_text(encoding="utf-8").splitlines()
    turns = [turn["content"] for line in lines for turn in json.loads(line)["messages"] if turn["role"] == "user"]
    assert len(set(lines)) == len(lines) <= len(turns)
    for turn in turns:
        assert turn.removesuffix(SWITCHES[0]).removesuffix(SWITCHES[1]) not in held_out


def test_the_tokens_are_those_of_training(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    encoder, chat = DocumentEncoder(tokenizer, template), ChatEncoder(tokenizer, template, "demo model")
    line_end = tokenizer.encode_text("\n")
    drawn, written = Random(5), Random(5)
    for _ in range(200):
        talk, text = dialogue(drawn), example(written)
        prompt, reply = tokenizer.encode_markup(text.prompt), tokenizer.encode_markup(text.reply)
        document = read_record(record(talk), RecordPlace(0, 1))
        assert isinstance(document, Document)
        assert encoder.encode(document) == prompt + reply + line_end
        assert chat.encode(document.messages[:-1], thinking=not talk.prompted) == prompt


def test_it_fills_its_rows_in_the_curriculums_proportions(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    shares: dict[str, float] = {}
    for area, weight in MIX.items():
        name = AREAS.get(area, area)
        shares[name] = shares.get(name, 0) + weight
    found = load_calibration_set([COMMITTED], tokenizer, template, samples=128, seq_len=128, shares=shares)
    assert found.token_ids.shape == (128, 128)
    assert found.notices == ()
    assert found.digest == "fd087ce1310de45fad14342cecb8f88909a592cbcbcabf5957111c2ba7ceed95"
