"""A signal at any moment of the start ends the command with its exit code and no traceback."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

# Sends itself a signal at one of the imports that the start makes; without a number it counts them.
PROGRAM = """
import os, signal, sys
number, at = int(sys.argv[1]), int(sys.argv[2])
seen = 0
def hook(event, _arguments):
    global seen
    if event == "import":
        seen += 1
        if seen == at:
            os.kill(os.getpid(), number)
from q3edge.cli.start import entry_point
import q3edge.cli.start as start
sys.argv[1:] = ["--version"]
leave = start.leave_at_signals
def then_watch():
    leave()
    sys.addaudithook(hook)
start.leave_at_signals = then_watch
try:
    entry_point()
finally:
    print(seen, file=sys.stderr)
"""


def start(number: int, at: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(number), str(at)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def imports() -> int:
    return int(start(0, 0).stderr)


def test_r17_forty_interrupts_at_random_imports_of_the_start_are_quiet(imports: int) -> None:
    assert imports > 100
    for at in random.Random(17).sample(range(1, imports + 1), 40):
        found = start(2, at)
        assert (found.returncode, found.stderr.split("\n")[0]) == (130, "interrupted"), found.stderr
        assert "Traceback" not in found.stderr


def test_r17_sigterm_at_the_start_has_the_code_143(imports: int) -> None:
    found = start(15, imports // 2)
    assert (found.returncode, found.stderr) == (143, "")


def test_r17_a_signal_in_an_import_of_a_command_waits_for_its_end(tmp_path: Path) -> None:
    """Native modules turn an exception in their import into an ImportError, or abort."""
    (tmp_path / "half.py").write_text(
        "import os, signal, sys\nos.kill(os.getpid(), signal.SIGINT)\n"
        "for _ in range(1000): pass\nprint('imported', file=sys.stderr)\n"
    )
    program = """
import sys
from q3edge.cli import main
class Importing:
    def __enter__(self):
        import half
        while True: pass
    def __exit__(self, *_): pass
main.report_to = lambda _listener: Importing()
sys.exit(main.main(["list"]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert (found.returncode, found.stderr) == (130, "imported\ninterrupted\n")
