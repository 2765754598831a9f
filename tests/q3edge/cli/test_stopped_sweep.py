"""A sweep that builds in several processes, stopped: nothing of it goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=["terminated", "killed"]
)
def test_r1_the_processes_of_a_stopped_sweep_end_with_it(number: signal.Signals, code: int, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["sweep", DEMO_MODEL, "-o", output, "--formats", "int8,int4,int4-fast", "--jobs", "2", "--no-speed"]
    process = subprocess.Popen(
        [sys.executable, "-m", "q3edge", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not [path for path in output.glob("*") if path.is_dir()]:  # until the first begins
        assert process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(number)  # to the one process, unlike a terminal's Ctrl-C
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    if number == signal.SIGTERM:
        assert errors.splitlines()[-1] == "terminated; the same command goes on from here"
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert [path for path in output.glob("*") if path.is_dir()] == []
