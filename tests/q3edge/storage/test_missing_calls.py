"""Systems without positioned reads, locks and limits (Windows): files are written and read as elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from q3edge.errors import ResourceError
from q3edge.machine import memory
from q3edge.storage import raw_bytes
from q3edge.storage.raw_bytes import read_at, read_up_to, write_at

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))
HIDING = """
import os, sys
for name in ("pread", "preadv", "pwrite", "pwritev", "sched_getaffinity", "sysconf"):
    delattr(os, name)
sys.modules["fcntl"] = sys.modules["resource"] = None
from q3edge.cli.main import main
folder, model = sys.argv[1:]
built = main(["build", model, "-o", folder + "/a", "--format", "int8", "--method", "gptq", "--samples", "4",
              "--seq-len", "32", "--max-tokens", "64"])
read = main(["validate", folder + "/a", "--reference", model, "--max-tokens", "64"])
sys.exit(built or read or main(["run", folder + "/a", "Hi", "--raw", "--max-new-tokens", "2"]))
"""


def test_l21_build_validate_and_run_without_the_calls_that_windows_lacks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDING, str(tmp_path), str(DEMO_MODEL)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("positioned", [True, False])
def test_l21_bytes_are_read_and_written_at_their_places(
    positioned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_bytes, "_POSITIONED", positioned)
    monkeypatch.setattr(raw_bytes, "_PIECE", 3)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_at(descriptor, b"0123456789", 2)
    write_at(descriptor, b"ab", 0)
    found = bytearray(7)
    read_at(descriptor, memoryview(found), 1)
    assert found == b"b012345"
    assert read_up_to(descriptor, 100, 8) == b"6789"
    assert read_up_to(descriptor, 2, 99) == b""
    with pytest.raises(EOFError, match="ends at byte 12"):
        read_at(descriptor, memoryview(found), 8)
    os.close(descriptor)


def test_l21_an_unknown_peak_of_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ResourceError, match="bench"):
        memory.peak_memory()
