"""/v1/prefixes of real servers: saved by one, restored by the next, and nothing but names that may be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from q3edge.runtime.model import Model
from tests.helpers.server import running_server

SYSTEM: Any = {"role": "system", "content": "You answer questions about capitals and numbers. " * 4}
ASKED: Any = {"role": "user", "content": "What is the capital of Japan?"}
CHAT = "/v1/chat/completions"


def cached(client: httpx.Client) -> int:
    answer = client.post(CHAT, json={"messages": [SYSTEM, ASKED], "temperature": 0, "max_tokens": 4})
    found: int = answer.raise_for_status().json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


@pytest.mark.slow
def test_a_prefix_outlives_the_server(artifact: Path, model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "prefixes"
    expected = model.encode_chat([SYSTEM], add_generation_prompt=False)
    with running_server(artifact, "--prefix-dir", folder) as first, first.client() as client:
        body = {"name": "capitals-1", "messages": [SYSTEM]}
        for _ in range(2):  # the second takes the first's place
            saved = client.post("/v1/prefixes", json=body).raise_for_status().json()
        (file,) = folder.iterdir()
        assert saved == {
            "object": "prefix", "model": "demo", "name": "capitals-1", "tokens": len(expected),
            "bytes": file.stat().st_size,
        }  # fmt: skip
        assert client.get("/v1/prefixes").json()["data"] == [
            {"object": "prefix", "model": "demo", "name": "capitals-1"}
        ]
    damaged = folder / file.name.replace("capitals", "damaged")
    damaged.write_bytes(file.read_bytes()[:-1])
    (folder / file.name.replace("demo", "another")).write_bytes(b"of another model")
    with running_server(artifact, "--prefix-dir", folder) as second, second.client() as client:
        assert [(line["prefix"], line["tokens"]) for line in second.events("prefix restored")] == [
            ("capitals-1", len(expected))
        ]
        assert [line["prefix"] for line in second.events("prefix not restored")] == ["damaged-1"]
        assert cached(client) >= len(expected)


def test_none_is_saved_unless_there_is_a_folder(client: httpx.Client) -> None:
    refused = client.post("/v1/prefixes", json={"name": "x", "prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_enabled")
    assert client.get("/v1/prefixes").json() == {"object": "list", "data": []}


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "x.kv", "a" * 65, "a\n", "é", None, 3])
def test_a_name_is_no_path(client: httpx.Client, name: object) -> None:
    refused = client.post("/v1/prefixes", json={"name": name, "prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "name")
