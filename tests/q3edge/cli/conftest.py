"""The demo model, and the commands that answer, run on it."""

from __future__ import annotations

import io
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from q3edge.cli.main import main
from q3edge.pipeline.export import export_artifact
from tests.helpers.runtime import Answer


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, float: it can answer."""
    folder = tmp_path_factory.mktemp("demo") / "float"
    export_artifact(str(files("q3edge.data") / "demo_model"), folder, as_float=True)
    return folder


@pytest.fixture
def answer(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Answer:
    """Run a verb on the demo model in this process; gives exit code, stdout and stderr."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(verb: str, *arguments: str, stdin: bytes | None = b"", terminal: bool = False) -> tuple[int, str, str]:
        stream = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="latin-1")
        if stream is not None:
            monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(sys, "stdin", stream)
        code = main([verb, str(demo_folder), *arguments])
        found = capfd.readouterr()
        return code, found.out, found.err

    return run
