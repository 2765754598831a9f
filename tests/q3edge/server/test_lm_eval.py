"""lm-evaluation-harness asks a real server by its own clients for OpenAI's API, and finds what it finds in-process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import RunningServer

pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra eval)")
pytest.importorskip("tenacity", reason="lm-eval's clients need lm-eval[api]")

from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from q3edge.evaluation.lm_eval import Q3EdgeLM
from tests.helpers.lm_tasks import run_task

pytestmark = pytest.mark.slow
QUESTIONS = [
    {"question": "What is the capital of Japan?", "choices": [" Tokyo", " Rome", " Paris"], "label": 0},
    {"question": "What is the capital of Italy?", "choices": [" Tokyo", " Rome", " A town in Italy"], "label": 1},
]


@pytest.fixture(scope="module")
def adapter(artifact: Path) -> Iterator[Q3EdgeLM]:
    with Q3EdgeLM(artifact, threads=1) as model:
        yield model


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("no_proxy", "*")


def responses(found: dict[str, Any]) -> list[Any]:
    """What the model said to each request."""
    samples = sorted(found["samples"]["tiny"], key=lambda sample: int(sample["doc_id"]))
    return [response for sample in samples for response in sample["filtered_resps"]]


def test_local_completions_scores_as_the_adapter_does(
    server: RunningServer, artifact: Path, adapter: Q3EdgeLM, tmp_path: Path
) -> None:
    client = LocalCompletionsAPI(
        base_url=f"{server.address}/v1/completions", model="demo", tokenizer_backend="huggingface",
        tokenizer=str(artifact), max_length=adapter.max_length,
    )  # fmt: skip
    task: dict[str, Any] = {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "label", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    served, own = (run_task(model, tmp_path, QUESTIONS, **task) for model in (client, adapter))
    pairs = list(zip(responses(served), responses(own)))
    assert len(pairs) == 6
    for (score, greedy), (expected, own_greedy) in pairs:
        assert float(score) == pytest.approx(float(expected), abs=1e-3)
        assert greedy == own_greedy
    assert served["results"]["tiny"]["acc,none"] == own["results"]["tiny"]["acc,none"]


def test_local_chat_completions_generates_as_the_adapter_does(
    server: RunningServer, adapter: Q3EdgeLM, tmp_path: Path
) -> None:
    client = LocalChatCompletion(base_url=f"{server.address}/v1/chat/completions", model="demo")
    task: dict[str, Any] = {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{choices[label]}}",
        "metric_list": [{"metric": "exact_match"}], "chat": True,
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 60, "do_sample": False},
    }  # fmt: skip
    served, own = (run_task(model, tmp_path, QUESTIONS, **task) for model in (client, adapter))
    assert responses(served) == responses(own)
    assert responses(served)[0] == "Tokyo"
    assert served["results"]["tiny"]["exact_match,none"] == own["results"]["tiny"]["exact_match,none"]
