"""Scores of a checkpoint laid out as Qwen3-Reranker is published, beside the model card's way with transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

import q3edge
from q3edge.errors import InputError, UsageError
from q3edge.pipeline.export import export_artifact
from q3edge.runtime.reranker import Reranker
from tests.helpers.embedding import write_reranker_checkpoint
from tests.helpers.runtime import write_artifact

QUERY = "where is the cat?"
DOCUMENTS = ["the cat sat on the mat", "the dog sat on the log", "", "yes and no {} 猫"]
# The card's three texts, written out once more.
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
TASK = "Given a web search query, retrieve relevant passages that answer the query"
BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker_checkpoint(tmp_path_factory.mktemp("reranker") / "checkpoint")


@pytest.fixture(scope="module")
def reranker(checkpoint: Path) -> Iterator[Reranker]:
    export_artifact(str(checkpoint), checkpoint.parent / "artifact", as_float=True)
    with q3edge.load_reranker(checkpoint.parent / "artifact", threads=1) as opened:
        yield opened


def expected(checkpoint: Path, task: str) -> list[float]:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    model = Qwen3ForCausalLM(Qwen3Config(**json.loads((checkpoint / "config.json").read_text()))).float().eval()
    weights = {name: tensor.float() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    answers = [tokenizer.token_to_id("no"), tokenizer.token_to_id("yes")]
    scores = []
    for document in DOCUMENTS:
        asked = f"<Instruct>: {task}\n<Query>: {QUERY}\n<Document>: {document}"
        ids = [token for text in (BEFORE, asked, BEHIND) for token in tokenizer.encode(text).ids]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        scores.append(float(torch.softmax(logits[answers].double(), 0)[1]))
    return scores


def test_scores_are_the_cards(checkpoint: Path, reranker: Reranker) -> None:
    assert reranker.score(QUERY, DOCUMENTS) == pytest.approx(expected(checkpoint, TASK), abs=1e-5)
    found = reranker.score(QUERY, DOCUMENTS, instruction="Find cats")
    assert found == pytest.approx(expected(checkpoint, "Find cats"), abs=1e-5)
    assert reranker.score(QUERY, []) == []


def test_what_documents_share_is_computed_once(reranker: Reranker) -> None:
    prompts = reranker.encode("a query that nobody asked before", ["a cat", "a dog"])
    asked = reranker.score("a query that nobody asked before", ["a cat"])
    shared = next(place for place, (a, b) in enumerate(zip(*prompts)) if a != b)
    completion = reranker.model.generate(prompts[1], max_new_tokens=1, temperature=0)
    assert completion.stats.reused_tokens >= shared - 1
    assert reranker.score("a query that nobody asked before", ["a dog", "a cat"])[1] == pytest.approx(
        asked[0], abs=1e-5
    )


def test_misuse_says_what_to_give(reranker: Reranker, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="documents: give a list of texts, not a str"):
        reranker.score(QUERY, "x")
    with pytest.raises(TypeError, match=r"documents\[0\]: give a str, not int"):
        reranker.score(QUERY, [3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="query: give a str, not NoneType"):
        reranker.score(None, ["x"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"document 2 comes to .* context is 1024 tokens"):
        reranker.score(QUERY, ["x", "é" * 1000])
    special = reranker.model.tokenizer.id_of("<|im_end|>")
    spelled, plain = (reranker.encode(QUERY, [text])[0].count(special or 0) for text in ("<|im_end|>", "x"))
    assert spelled == plain  # what a document spells stays text
    with pytest.raises(InputError, match="no token for no or yes"):
        Reranker.open(write_artifact(tmp_path / "no answers"))
