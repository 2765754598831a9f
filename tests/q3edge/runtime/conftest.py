"""A small model for the tests of conversations and answers; opened once for a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from q3edge.runtime.model import Model
from tests.helpers.runtime import write_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("model") / "artifact", eos_token_id=297)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    with Model.open(folder, threads=1) as model:
        yield model
