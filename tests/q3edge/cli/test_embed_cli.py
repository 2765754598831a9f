"""`q3edge embed` and `q3edge rerank` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.pipeline.export import export_artifact
from tests.helpers.embedding import write_embedding_checkpoint, write_reranker_checkpoint


def q3edge(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "q3edge", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a checkpoint and the artifacts of an embedding model and of a reranker."""
    folder = tmp_path_factory.mktemp("models")
    for name, write in (("embedding", write_embedding_checkpoint), ("reranker", write_reranker_checkpoint)):
        export_artifact(str(write(folder / f"{name}-checkpoint")), folder / name, as_float=True)
    return folder


def numbers(done: subprocess.CompletedProcess[bytes]) -> np.ndarray:
    assert done.returncode == 0, done.stderr
    return np.array([line.split() for line in done.stdout.decode().splitlines()], np.float32)


def test_vectors_are_lines_json_or_a_file_of_the_same_numbers(places: Path, tmp_path: Path) -> None:
    texts = ["the cat", "", "é 猫"]
    lines = numbers(q3edge("embed", places / "embedding", *texts))
    assert lines.shape == (3, 64)
    piped = q3edge("embed", places / "embedding", stdin="the cat\r\n\né 猫".encode())
    np.testing.assert_array_equal(numbers(piped), lines)
    shown = q3edge("embed", places / "embedding", "--json", "--query", "--dimensions", 8, *texts)
    found = json.loads(shown.stdout)
    assert (found["dimensions"], len(found["embeddings"]), len(found["embeddings"][0])) == (8, 3, 8)
    asked = q3edge("embed", places / "embedding", "-o", tmp_path / "a" / "v.npy", *texts)
    assert (asked.returncode, asked.stdout, asked.stderr.decode().splitlines()[-1][-8:]) == (0, b"", ": 3 x 64")
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "v.npy"), lines)


def test_documents_come_best_first(places: Path) -> None:
    documents = ["the cat sat on the mat", "the dog", "a log"]
    shown = q3edge("rerank", places / "reranker", "where is the cat?", stdin="\n".join(documents).encode())
    assert shown.returncode == 0, shown.stderr
    rows = [line.split("\t") for line in shown.stdout.decode().splitlines()]
    scores = [float(score) for score, _ in rows]
    assert scores == sorted(scores, reverse=True)
    assert sorted(text for _, text in rows) == sorted(documents)
    found = json.loads(q3edge("rerank", places / "reranker", "--json", "where is the cat?", *documents).stdout)
    assert [documents[entry["index"]] for entry in found["results"]] == [text for _, text in rows]
    assert [entry["relevance_score"] for entry in found["results"]] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("embed", "embedding", "--json", "-o", "x.npy", "a"), 2, "--output writes a file and --json prints: give one"),
        (("embed", "embedding", "--dimensions", 65, "a"), 2, "dimensions = 65: expected 1 to 64, the model's"),
        (("embed", "embedding", "a", "é" * 600), 2, "text 2 has 1201 tokens, but the model's context is 512"),
        (("embed", "reranker", "a"), 3, "holds a language model, which makes no embeddings: q3edge run "),
        (("embed", "embedding-checkpoint", "a"), 3, "holds a checkpoint, not an ONNX model; make one: q3edge build "),
        (("run", "embedding", "a"), 3, "makes vectors of texts and writes none: q3edge embed "),
        (("rerank", "embedding", "a", "b"), 3, "makes vectors of texts and writes none: q3edge embed "),
    ],
)
def test_misuse_is_one_line_and_an_exit_code(
    arguments: tuple[Any, ...], code: int, words: str, places: Path, tmp_path: Path
) -> None:
    verb, folder, *rest = arguments
    done = q3edge(verb, places / str(folder), *(tmp_path / word if word == "x.npy" else word for word in rest))
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    assert words in done.stderr.decode().splitlines()[-1]
    assert not (tmp_path / "x.npy").exists()
