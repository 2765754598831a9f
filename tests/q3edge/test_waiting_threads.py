"""Threads that wait for others leave the core to them: those of onnxruntime, and of torch's OpenMP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from q3edge.runtime.session.decoder import Decoder
from tests.helpers.runtime import write_artifact

DEMO_MODEL = files("q3edge.data") / "demo_model"
_TAKEN = 0.01  # seconds of CPU while nothing is to be done; threads that spin took 0.03 of 0.5


def test_u5_threads_of_a_session_do_not_spin_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    decoder = Decoder(write_artifact(tmp_path / "artifact"), threads=4)
    cache = decoder.new_cache(64)
    decoder.forward(np.ones((1, 32), np.int64), cache, keep=0)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < _TAKEN


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch for Linux has GNU's OpenMP, which tells its settings")
@pytest.mark.parametrize(("chosen", "spins"), [({}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")])
def test_u5_threads_of_torch_sleep_while_they_wait_unless_the_user_chose(
    chosen: dict[str, str], spins: str, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "q3edge", "quantize", str(DEMO_MODEL), "-o", tmp_path / "out", "--method", "rtn"],
        env=environment | chosen | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr.replace("[host] ", "")
