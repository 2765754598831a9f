"""The embedded model's files are what the committed generator makes, and held-out questions stay out of training."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
import torch

from q3edge.checkpoint import Checkpoint
from q3edge.evaluation.suites.question_files import read_questions
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.messages import Message
from tools.demo_model import batches, train
from tools.demo_model.areas import AREAS
from tools.demo_model.chat_template import Conversation, prompt_text
from tools.demo_model.curriculum import draw, example, examples, questions
from tools.demo_model.item import held_out

MODEL = Path(str(files("q3edge.data") / "demo_model"))


def test_the_committed_questions_are_the_generators() -> None:
    committed = [asdict(question) for question in read_questions(MODEL / "questions.jsonl")]
    assert committed == [asdict(question) for question in questions()]


def test_the_checkpoint_is_complete_and_small() -> None:
    with Checkpoint.open(MODEL) as checkpoint:
        assert checkpoint.stored_bytes <= 6_000_000
        assert checkpoint.notices == ()
        config = checkpoint.config
    assert config.head_dim != config.hidden_size // config.num_attention_heads
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.tie_word_embeddings


@pytest.mark.slow
def test_both_shapes_are_trained_by_the_same_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [*examples(3, 40)]
    monkeypatch.setattr(batches, "examples", lambda _seed, _count: shown)
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)  # this process runs other tests too
    monkeypatch.setattr(train, "answers", lambda _model, _tokenizer, rows: [row["answer"] for row in rows])
    for name, extra in (("dense", []), ("moe", ["--moe", "--dense", str(MODEL)])):
        folders = ["--out", str(tmp_path / name), "--state", str(tmp_path / name / "state")]
        settings = ["--tokenizer", str(MODEL / "tokenizer.json"), "--tokens", "256", "--threads", "1"]
        for steps in ("1", "2"):  # the second goes on
            monkeypatch.setattr(sys, "argv", ["train", *folders, *settings, *extra, "--steps", steps])
            train.main()
        log = [json.loads(line) for line in (tmp_path / name / "training_log.jsonl").read_text().splitlines()]
        assert [row["step"] for row in log] == [1, 2]
        with Checkpoint.open(tmp_path / name) as trained:
            assert trained.notices == ()
            assert (trained.config.moe is not None) == (name == "moe")


def test_training_examples_follow_the_seed_and_never_ask_a_held_out_question() -> None:
    first = list(examples(3, 400))
    assert first == list(examples(3, 400))
    assert first != list(examples(4, 400))
    asked = {f"<|im_start|>user\n{question.question}" for question in questions()}
    generator = Random(11)
    for _ in range(3000):
        turns = example(generator).prompt.split("<|im_end|>\n")
        assert not asked & {turn.removesuffix(" /think").removesuffix(" /no_think") for turn in turns}


@pytest.mark.parametrize("area", AREAS)
def test_both_sides_of_the_split_can_be_drawn(area: str) -> None:
    generator = Random(5)
    for wanted in (True, False):
        assert held_out(draw(generator, area, True, want_held_out=wanted)) is wanted


@pytest.mark.parametrize("thinking", [True, False])
def test_training_prompts_are_what_the_chat_template_renders(thinking: bool) -> None:
    conversation = Conversation("What is 2 + 2?", "Be polite and exact.", (("Hello", "Hello!"),))
    messages: list[Message] = [
        {"role": "system", "content": "Be polite and exact."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is 2 + 2?"},
    ]
    template = ChatTemplate.load(MODEL)
    assert template is not None
    try:
        rendered = template.render(messages, thinking=thinking, add_generation_prompt=True)
    finally:
        template.close()
    assert rendered == prompt_text(conversation, thinking)


def test_the_training_log_ends_with_the_accuracy_that_the_card_names() -> None:
    last = json.loads((MODEL / "training_log.jsonl").read_text().splitlines()[-1])
    assert last["accuracy"]["all"] > 0.9
    row = next(line for line in (MODEL / "README.md").read_text().splitlines() if line.startswith("| all |"))
    assert row.endswith(f"| {100 * last['accuracy']['all']:.1f} % |")
