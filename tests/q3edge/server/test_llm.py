"""The command `llm` drives a real server, which it is told of in its file of further models."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.server import RunningServer

if find_spec("llm") is None:
    pytest.skip("llm is not installed", allow_module_level=True)

_MODELS = """
- model_id: demo
  model_name: demo
  api_base: "{address}/v1"
"""


@pytest.mark.slow
def test_llm_prints_an_answer(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(_MODELS.format(address=server.address))
    command = [sys.executable, "-m", "llm", "-m", "demo", "-o", "temperature", "0"]
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none", "no_proxy": "*"}
    said = subprocess.run(
        [*command, "What is the capital of Japan?"], env=environment, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout.strip()) == (0, "Tokyo"), said.stderr
