"""/v1/embeddings and /v1/rerank of a real server with a model of each kind, against the library's own vectors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from starlette.testclient import TestClient

import q3edge
from q3edge.runtime.embedding_model import EmbeddingModel
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.reranker import Reranker
from q3edge.server.app import hosted_app
from q3edge.server.options import ServerOptions
from tests.helpers.embedding import write_embedding_checkpoint, write_reranker_checkpoint
from tests.helpers.server import SLOW_PASSES, RunningServer, running_server

TEXTS = ["the cat sat on the mat", "the dog", "an é and 猫, " * 20, "the log and the mat"]
QUERY = "where is the cat?"


@pytest.fixture(scope="module")
def folders(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The embedded model, an embedding model and a reranker."""
    place = tmp_path_factory.mktemp("kinds")
    for name, write in (("embedder", write_embedding_checkpoint), ("reranker", write_reranker_checkpoint)):
        q3edge.export(write(place / f"{name}-checkpoint"), place / name, as_float=True)
    return [artifact, place / "embedder", place / "reranker"]


@pytest.fixture(scope="module")
def kinds(folders: list[Path]) -> Iterator[RunningServer]:
    with running_server(*folders, "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def http(kinds: RunningServer) -> Iterator[httpx.Client]:
    with kinds.client() as client:
        yield client


@pytest.fixture(scope="module")
def embedder(folders: list[Path]) -> Iterator[EmbeddingModel]:
    with q3edge.load_embedding(folders[1], threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def reranker(folders: list[Path]) -> Iterator[Reranker]:
    with q3edge.load_reranker(folders[2], threads=1) as model:
        yield model


def vectors(http: httpx.Client, **fields: Any) -> np.ndarray:
    found = http.post("/v1/embeddings", json=fields).raise_for_status().json()
    assert [each["index"] for each in found["data"]] == list(range(len(found["data"])))
    return np.array([each["embedding"] for each in found["data"]], np.float32)


def test_the_official_client_gets_the_librarys_vectors(kinds: RunningServer, embedder: EmbeddingModel) -> None:
    """It asks for base64 where nothing else is said."""
    with openai.OpenAI(base_url=f"{kinds.address}/v1", api_key="none") as client:
        found = client.embeddings.create(model="embedder", input=TEXTS, dimensions=8)
        listed = {model.id: model.model_extra for model in client.models.list()}
    np.testing.assert_allclose([each.embedding for each in found.data], embedder.embed(TEXTS, dimensions=8), atol=1e-6)
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(map(len, embedder.encode(TEXTS)))
    assert {name: (extra or {})["kind"] for name, extra in listed.items()} == {
        "demo": "language", "embedder": "embedding", "reranker": "language",
    }  # fmt: skip


def test_texts_ids_and_queries(http: httpx.Client, embedder: EmbeddingModel) -> None:
    every = embedder.embed(TEXTS)
    ids = embedder.encode(TEXTS)
    np.testing.assert_array_equal(vectors(http, input=TEXTS[0]), embedder.embed(TEXTS[0]))
    np.testing.assert_array_equal(vectors(http, input=TEXTS), every)
    np.testing.assert_array_equal(vectors(http, input=ids), every)
    np.testing.assert_array_equal(vectors(http, input=ids[1]), embedder.embed_ids(ids[1:2]))
    np.testing.assert_array_equal(vectors(http, input=TEXTS, input_type="document"), every)
    asked = vectors(http, input=QUERY, input_type="query", instruction="Find the cat")
    np.testing.assert_array_equal(asked, embedder.embed(QUERY, instruction="Find the cat"))
    np.testing.assert_array_equal(vectors(http, input=QUERY, input_type="query"), embedder.embed(QUERY, query=True))


def test_a_texts_tokens_are_those_that_are_embedded(http: httpx.Client, embedder: EmbeddingModel) -> None:
    found = http.post("/tokenize", json={"model": "embedder", "prompt": TEXTS[0]}).json()
    assert found == {"tokens": embedder.encode(TEXTS[0])[0], "count": found["count"], "max_model_len": embedder.context}


def test_many_documents_take_more_places_in_the_queue(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    may_pass, made = Event(), Engine._pass
    monkeypatch.setattr(Engine, "_pass", lambda engine: (may_pass.wait(60), made(engine)))
    one, many = ({"query": QUERY, "documents": ["the cat"] * count} for count in (1, 100))
    app = hosted_app(ServerOptions({"reranker": folders[2]}, max_batch=1, max_queue=2, threads=1))
    with TestClient(app, "http://localhost") as client, ThreadPoolExecutor(1) as pool:
        ranking = pool.submit(client.post, "/v1/rerank", json=many)
        while client.get("/health").json()["status"] != "full":
            time.sleep(0.01)
        refused = client.post("/v1/rerank", json=one)
        may_pass.set()
        assert len(ranking.result().raise_for_status().json()["results"]) == 100
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        client.post("/v1/rerank", json=one).raise_for_status()


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_are_ranked_as_the_library_scores_them(http: httpx.Client, reranker: Reranker, path: str) -> None:
    documents: list[Any] = [TEXTS[0], {"text": TEXTS[1]}, *TEXTS[2:]]
    scores = reranker.score(QUERY, TEXTS, instruction="Find cats")
    body = {
        "model": "reranker", "query": QUERY, "documents": documents, "instruction": "Find cats", "top_n": 3,
        "return_documents": True,
    }  # fmt: skip
    found = http.post(path, json=body).raise_for_status().json()
    best = sorted(range(len(TEXTS)), key=lambda index: -scores[index])[:3]
    assert [result["index"] for result in found["results"]] == best
    said = [result["relevance_score"] for result in found["results"]]
    assert said == pytest.approx([scores[index] for index in best], rel=1e-3)
    assert [result["document"]["text"] for result in found["results"]] == [TEXTS[index] for index in best]
    assert found["usage"]["prompt_tokens"] == sum(map(len, reranker.encode(QUERY, TEXTS, instruction="Find cats")))
    del body["top_n"], body["return_documents"]
    every = http.post(path, json=body).json()["results"]
    assert len(every) == len(TEXTS)
    assert "document" not in every[0]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": [""] * 2049}, "input"),
        ("/v1/embeddings", {"input": [[]]}, "input[0]"),
        ("/v1/embeddings", {"input": [[10**6]]}, "input"),
        ("/v1/embeddings", {"input": [[1] * 100_000]}, "input"),
        ("/v1/embeddings", {"input": ["a", 3]}, "input[1]"),
        ("/v1/embeddings", {"input": "a", "model": "demo"}, "model"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "dimensions": 10**6}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": [1], "instruction": "x"}, "input"),
        ("/v1/embeddings", {"input": "a", "input_type": "document", "instruction": "x"}, "instruction"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "model": "embedder"}, "model"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "model": "demo"}, "model"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": ["a " * 5000], "model": "reranker"}, "documents"),
        ("/v1/rerank", {"query": "a" * 5000, "documents": ["a"] * 2048, "model": "reranker"}, "documents"),
        ("/v1/rerank", {"query": "a " * 50_000, "documents": ["a"], "model": "reranker"}, "query"),
        ("/v1/embeddings", {"input": ["a"] * 2048, "instruction": "a" * 5000}, "input"),
        ("/v1/embeddings", {"input": "a " * 50_000}, "input"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "rank_fields": ["x"]}, "rank_fields"),
        ("/v1/chat/completions", {"model": "embedder", "messages": [{"role": "user", "content": "x"}]}, "model"),
        ("/tokenize", {"model": "embedder", "messages": [{"role": "user", "content": "x"}]}, "messages"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, path: str, fields: dict[str, Any], param: str) -> None:
    answer = http.post(path, json=fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_41_a_client_that_leaves_ends_its_passes(folders: list[Path]) -> None:
    """Between two passes, which are slow here, so that none of these requests would come to its end."""
    slow_embedder = """
from time import sleep
from q3edge.runtime.session.embedder import Embedder
fast = Embedder.forward
Embedder.forward = lambda *args: sleep(0.1) or fast(*args)
"""
    texts = ["the cat " * 100] * 1000
    asked = {"/v1/embeddings": {"input": texts}, "/v1/rerank": {"query": QUERY, "documents": texts}}
    with running_server(*folders[1:], "--max-batch", "2", first=SLOW_PASSES + slow_embedder) as server:
        with server.client() as patient:
            patient.post("/v1/rerank", json={"query": QUERY, "documents": ["x"]}).raise_for_status()  # opens the model
        for path, body in asked.items():
            with pytest.raises(httpx.ReadTimeout), server.client() as client:
                client.post(path, json=body, timeout=httpx.Timeout(60, read=0.5))
        server.wait_for("q3edge_answers_running", 0)
        server.wait_for("q3edge_answers_waiting", 0)
        with server.client() as client:
            client.post("/v1/embeddings", json={"input": "the cat"}).raise_for_status()
        outcomes = {path: {line["outcome"] for line in server.requests(2, path=path)} for path in asked}
    assert outcomes == {path: {"ok", "cancelled"} for path in asked}


def test_no_model_of_a_kind_is_told(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.slow
def test_47_a_server_that_ends_lets_texts_be_embedded_or_tells(folders: list[Path]) -> None:
    first = """
import time
from q3edge.runtime.session.embedder import Embedder
made = Embedder.forward
Embedder.forward = lambda self, texts: (time.sleep(0.1), made(self, texts))[1]
from q3edge.server import serving
from q3edge.server.endpoints import embeddings
serving._CLOSE_SECONDS = 0.2
encode = embeddings._encoded
embeddings._encoded = lambda *given: (print("begun", flush=True), encode(*given))[1]
"""
    with running_server(*folders, "--threads", "1", first=first) as server, ThreadPoolExecutor(2) as pool:
        few = pool.submit(server.post, "/v1/embeddings", {"input": ["the cat " * 100] * 4})
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "begun\n"
        many = pool.submit(server.post, "/v1/embeddings", {"input": ["the cat " * 100] * 2000})
        assert server.process.stdout.readline() == "begun\n"
        assert server.end() == 0
        assert few.result().status_code == 200
        assert (many.result().status_code, many.result().json()["error"]["code"]) == (503, "shutting_down")
    assert [line for line in server.events("library") if "trace" in line] == []


def test_requests_side_by_side_get_their_own_vectors(kinds: RunningServer, embedder: EmbeddingModel) -> None:
    """Each has several passes, so they take turns."""
    texts = [[f"{word} " * (50 + i) for i in range(60)] for word in ("cat", "dog", "log", "mat")]

    def ask(some: list[str]) -> np.ndarray:
        with kinds.client() as client:
            return vectors(client, input=some)

    with ThreadPoolExecutor(len(texts)) as pool:
        for some, found in zip(texts, pool.map(ask, texts)):
            np.testing.assert_array_equal(found, embedder.embed(some))
