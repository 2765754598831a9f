"""Embeddings of checkpoints laid out as Qwen3-Embedding is published, beside those of transformers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

import q3edge
from q3edge.errors import InputError, UsageError
from q3edge.pipeline.export import export_artifact
from q3edge.runtime.embedding_model import EmbeddingModel
from q3edge.runtime.model import Model
from tests.helpers.embedding import END, QUERY_PROMPT, float_embeddings, write_embedding_checkpoint
from tests.helpers.runtime import write_artifact

TEXTS = ["the cat sat on the mat", "", "the dog", "an é and 猫, " * 20, "the log and the mat", "x"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the 8B model is: no `model.`, no head, and a config.json that does not tie one."""
    return write_embedding_checkpoint(tmp_path_factory.mktemp("embedding") / "checkpoint", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "artifact"
    export_artifact(str(checkpoint), folder, as_float=True)
    return folder


@pytest.fixture(scope="module")
def model(artifact: Path) -> EmbeddingModel:
    return EmbeddingModel.open(artifact, threads=1)


def expected(checkpoint: Path, texts: list[str]) -> np.ndarray:
    """By transformers alone: its tokenizer, its Qwen3Model, last token, normalised."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "tokenizer.json"))
    ids = [tokenizer(text)["input_ids"] for text in texts]
    raw = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    return np.asarray(float_embeddings(weights, raw, ids).numpy())


def test_vectors_equal_those_of_transformers_in_padded_passes(checkpoint: Path, model: EmbeddingModel) -> None:
    found = model.embed(TEXTS)
    assert found.dtype == np.float32
    assert (found * expected(checkpoint, TEXTS)).sum(-1).min() > 1 - 1e-6
    assert np.linalg.norm(found, axis=-1) == pytest.approx(1, abs=1e-5)
    for text, vector in zip(TEXTS, found):
        np.testing.assert_allclose(model.embed(text)[0], vector, atol=1e-5)  # alone, without padding


@pytest.mark.parametrize("prefix", ["", "model."])
def test_checkpoints_with_and_without_prefix_and_head_are_the_same_model(
    prefix: str, checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    other = write_embedding_checkpoint(tmp_path / "other", prefix=prefix, tie_word_embeddings=True)
    tensors = load_file(other / "model.safetensors")
    head = {"lm_head.weight": torch.zeros_like(tensors[f"{prefix}embed_tokens.weight"])} if prefix else {}
    from safetensors.torch import save_file

    save_file({**tensors, **head}, other / "model.safetensors", {"format": "pt"})
    manifest = export_artifact(str(other), tmp_path / "out", as_float=True)
    assert manifest.kind == "embedding"
    assert ("head-ignored" in {notice.code for notice in manifest.notices}) == bool(prefix)
    assert (tmp_path / "out/onnx/model.onnx").read_bytes() == (artifact / "onnx/model.onnx").read_bytes()
    assert (tmp_path / "out/onnx/model.onnx_data").read_bytes() == (artifact / "onnx/model.onnx_data").read_bytes()
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["Qwen3Model"]


def test_prompts_go_before_queries_and_the_end_token_behind_all(model: EmbeddingModel) -> None:
    plain, query, asked = (
        model.encode("the cat"), model.encode("the cat", query=True), model.encode("the cat", instruction="Find it")
    )  # fmt: skip
    assert [ids[0][-1] for ids in (plain, query, asked)] == [END] * 3
    assert query == model.encode(QUERY_PROMPT + "the cat")
    assert (
        asked
        == model.encode("Instruct: Find it\nQuery:the cat")
        == model.encode("the cat", query=True, instruction="Find it")
    )
    assert model.encode("") == [[END]]
    assert END not in model.encode("<|endoftext|>")[0][:-1]  # what a text spells stays text
    np.testing.assert_array_equal(model.embed("the cat", instruction="Find it"), model.embed_ids(asked))


def test_fewer_dimensions_are_the_first_ones_normalised(model: EmbeddingModel) -> None:
    whole, cut = model.embed(TEXTS), model.embed(TEXTS, dimensions=16)
    np.testing.assert_allclose(cut, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=-1, keepdims=True), rtol=1e-5)
    assert model.embed(TEXTS, dimensions=64).shape == whole.shape == (len(TEXTS), model.dimensions)


def test_many_texts_come_in_their_order_whoever_asks(model: EmbeddingModel) -> None:
    rng = np.random.default_rng(0)
    texts = [f"{number} " + "the cat " * rng.integers(0, 40) for number in range(300)]  # more than are read ahead
    found = np.stack(list(model.embed_each(iter(texts))))
    with ThreadPoolExecutor(4) as pool:
        for place, alone in zip(range(0, 300, 37), pool.map(model.embed, texts[::37])):
            np.testing.assert_allclose(found[place], alone[0], atol=1e-5)
    assert list(model.embed_each([])) == []
    assert model.embed([]).shape == (0, 64)


def test_misuse_says_what_to_give(model: EmbeddingModel, artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="text 2 has 2001 tokens, but the model's context is 512 tokens; cut it"):
        model.embed(["x", "é" * 1000])
    with pytest.raises(UsageError, match="text 1 is not valid Unicode"):
        model.embed("\ud800")
    with pytest.raises(UsageError, match="dimensions = 65: expected 1 to 64"):
        model.embed("x", dimensions=65)
    with pytest.raises(TypeError, match=r"texts\[1\]: give a str, not int"):
        model.embed(["x", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="instruction: give a str, not int"):
        model.embed("x", instruction=3)  # type: ignore[arg-type]
    with q3edge.load_embedding(artifact, threads=1) as opened:
        pass
    with pytest.raises(UsageError, match="is closed; open it again"):
        opened.embed("x")
    with pytest.raises(InputError, match=r"holds an embedding model, .*: q3edge embed "):
        Model.open(artifact)
    with pytest.raises(InputError, match="holds a language model, which makes no embeddings"):
        EmbeddingModel.open(write_artifact(tmp_path / "decoder"))


def test_a_tokenizer_without_end_token_is_told(checkpoint: Path, tmp_path: Path) -> None:
    folder = write_embedding_checkpoint(tmp_path / "old")
    raw = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**raw, "post_processor": None}))
    manifest = export_artifact(str(folder), tmp_path / "out", as_float=True)
    assert "no-end-token" in {notice.code for notice in manifest.notices}
    with pytest.raises(UsageError, match="text 1 is empty"):
        EmbeddingModel.open(tmp_path / "out").embed("")
