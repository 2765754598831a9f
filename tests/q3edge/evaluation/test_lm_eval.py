"""lm-evaluation-harness on an artifact: its own evaluator, tasks from local files, numbers known from the logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.errors import UsageError
from q3edge.evaluation.distance.streams import decoder_logits
from q3edge.runtime.generation.settings import GenerationSettings
from tests.helpers.runtime import write_artifact

pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra eval)")

from q3edge.evaluation.lm_eval import Q3EdgeLM  # needs lm_eval
from tests.helpers.lm_tasks import run_task

CHOICES: list[dict[str, Any]] = [
    {"question": "the cat sat on the", "choices": [" mat", " log", " dog"], "label": 0},
    {"question": "the dog sat on the", "choices": [" cat", " log", " mat"], "label": 1},
    {"question": "and the", "choices": [" dog sat", " cat on the mat", " o"], "label": 2},
]
TEXTS = [{"text": "the cat sat on the mat and the dog sat on the log"}, {"text": "the log " * 300}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Q3EdgeLM]:
    folder = write_artifact(tmp_path_factory.mktemp("model") / "artifact", eos_token_id=297)
    with Q3EdgeLM(folder, threads=1) as model:
        yield model


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def log_probability(model: Q3EdgeLM, context: list[int], continuation: list[int]) -> float:
    """From all logits at once, in float64."""
    ids = np.array(context + continuation)
    logits = np.concatenate(list(decoder_logits(model.model.decoder, ids[:-1]))).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(sum(logits[i - 1, ids[i]] for i in range(len(context), len(ids))))


@pytest.mark.parametrize("chat", [False, True])
def test_multiple_choice_is_what_the_logits_say(model: Q3EdgeLM, tmp_path: Path, chat: bool) -> None:
    found = run_task(
        model, tmp_path, CHOICES, output_type="multiple_choice", doc_to_text="{{question}}",
        doc_to_choice="{{choices}}", doc_to_target="label", target_delimiter="",
        metric_list=[{"metric": "acc"}], chat=chat,
    )  # fmt: skip
    right = 0
    for row in CHOICES:
        question = row["question"]
        if chat:
            question = model.apply_chat_template([{"role": "user", "content": question}])
        kept = len(model.tok_encode(question.rstrip()))  # the harness scores white space with what follows it
        both = [model.tok_encode(question + choice) for choice in row["choices"]]
        scores = [log_probability(model, ids[:kept], ids[kept:]) for ids in both]
        right += int(np.argmax(scores)) == row["label"]
    assert found["results"]["tiny"]["acc,none"] == pytest.approx(right / len(CHOICES))


def test_a_text_longer_than_the_context_is_scored_whole(model: Q3EdgeLM, tmp_path: Path) -> None:
    found = run_task(
        model, tmp_path, TEXTS, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    short = model.tok_encode(TEXTS[0]["text"])
    assert len(model.tok_encode(TEXTS[1]["text"])) > model.max_length
    (total,) = model.loglikelihood_rolling([type("Request", (), {"args": (TEXTS[0]["text"],)})])
    assert total == pytest.approx(log_probability(model, [model.eot_token_id], short), rel=1e-5)
    assert found["results"]["tiny"]["bits_per_byte,none"] > 0


def test_generation_stops_where_the_task_says(model: Q3EdgeLM, tmp_path: Path) -> None:
    prompt = "the cat"
    whole = model.model.generate(prompt, model.model.settings(temperature=0.0, max_new_tokens=40)).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 1]
    found = run_task(
        model, tmp_path, [{"question": prompt, "answer": whole.partition(stop)[0]}], output_type="generate_until",
        doc_to_text="{{question}}", doc_to_target="{{answer}}", metric_list=[{"metric": "exact_match"}],
        generation_kwargs={"until": [stop], "max_gen_toks": 40, "do_sample": False},
    )  # fmt: skip
    assert found["results"]["tiny"]["exact_match,none"] == 1


def test_shared_beginnings_change_nothing(model: Q3EdgeLM) -> None:
    context = model.tok_encode("the cat sat on the mat and the dog")
    endings = [model.tok_encode(text) for text in (" sat on", " log", " sat on the log")]
    together = model._loglikelihood_tokens([(("", ""), context, ending) for ending in endings])
    for ending, (score, _) in zip(endings, together):
        assert score == pytest.approx(log_probability(model, context, ending), rel=1e-5)


def test_greedy_is_told(model: Q3EdgeLM) -> None:
    context = model.tok_encode("the cat")
    best = int(np.concatenate(list(decoder_logits(model.model.decoder, np.array(context))))[-1].argmax())
    assert model._score(context, [best])[1]
    assert not model._score(context, [best, (best + 1) % 300, best])[1] or best == (best + 1) % 300


def test_unknown_arguments_are_named(model: Q3EdgeLM) -> None:
    with pytest.raises(UsageError, match="generation argument num_beams"):
        model._settings({"num_beams": 4})


def test_requests_of_one_artifact_have_one_name(model: Q3EdgeLM) -> None:
    assert model.tokenizer_name.startswith("q3edge-")


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize(
    ("context", "text", "until", "answer"),
    [
        ("the cat", "<think>\nthe cat\nsat</think>\n\nmat\nlog", ["\n"], "mat"),
        ("the cat", "<think>\nthe log\nand the", ["\n"], ""),
        ("the cat", "<think>the log</think>\n", ["\n"], ""),
        ("<|im_start|>assistant\n<think>\n", "the cat\nsat\n</think>\n\nmat\nlog", ["\n"], "mat"),
        ("<|im_start|>assistant\n<think>\n", "the cat\nsat", ["\n"], ""),
        ("<|im_start|>assistant\n", "the cat</think>\n\nmat", ["log"], "mat"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "mat\nlog", ["\n"], "mat"),
        ("the cat", "mat\n\nlog\n", ["dog"], "mat\n\nlog\n"),
        ("the cat", "\nmat", ["\n"], ""),
    ],
)
def test_q2_only_what_follows_the_thinking_counts(
    model: Q3EdgeLM,
    monkeypatch: pytest.MonkeyPatch,
    thinking: bool | None,
    context: str,
    text: str,
    until: list[str],
    answer: str,
) -> None:
    ids = model.model.tokenizer.encode_markup(text)
    monkeypatch.setattr(model, "_thinking", thinking)
    monkeypatch.setattr("q3edge.evaluation.lm_eval.generate", lambda *_, **__: iter(ids))
    assert model._generate(context, {"until": until, "max_gen_toks": 100}) == answer


def test_q2_an_answer_cut_in_its_thinking_is_empty(model: Q3EdgeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = model.model.tokenizer.encode_markup("<think>" + "the cat sat " * 10 + "</think>mat")

    def cut(decoder: Any, prompt: Any, settings: GenerationSettings, engine: Any) -> Iterator[int]:
        return iter(ids[: settings.max_new_tokens])

    monkeypatch.setattr("q3edge.evaluation.lm_eval.generate", cut)
    assert model._generate("the dog", {"until": [], "max_gen_toks": 20}) == ""
    assert model._generate("the dog", {"until": [], "max_gen_toks": 200}) == "mat"
