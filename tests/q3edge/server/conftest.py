"""The embedded model as an artifact, and one server of it for all tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import openai
import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import q3edge
from q3edge.runtime.model import Model
from tests.helpers.server import RunningServer, running_server


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "demo"
    q3edge.export(str(files("q3edge.data") / "demo_model"), folder, as_float=True)
    return folder


@pytest.fixture(scope="session")
def server(artifact: Path) -> Iterator[RunningServer]:
    with running_server(artifact, "--threads", "1") as running:
        yield running


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def official(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none") as client:
        yield client


@pytest.fixture(scope="session")
def model(artifact: Path) -> Iterator[Model]:
    """The model that is served, in this process."""
    with q3edge.load(artifact, threads=1) as model:
        yield model
