"""`--allow-code` on a kernel without Landlock, which a filter of system calls makes of this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Answers ENOSYS to landlock_create_ruleset, or EINVAL to seccomp, and becomes q3edge.
WITHOUT = """
import ctypes, os, struct, sys
number, error = {hidden}
code = b"".join(struct.pack("=HBBI", *line) for line in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(code)
program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
library = ctypes.CDLL(None)
assert library.prctl(38, 1, 0, 0, 0) == 0 and library.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "q3edge", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="system calls are Linux's")
@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        ("444, 38", "Landlock is missing in this kernel or container"),
        ("444, 95", "Landlock is switched off in this kernel or container"),
        ("317 if os.uname().machine == 'x86_64' else 277, 22", "seccomp filters are missing in this kernel"),
        ("446, 1", "a process for a program cannot be confined: PermissionError: [Errno 1] system call 446"),
    ],
)
def test_r2_where_nothing_contains_programs_the_flag_is_refused(tmp_path: Path, hidden: str, reason: str) -> None:
    """Before any work: the folder that is asked for holds no model."""
    folder = str(tmp_path)
    arguments = ["eval", folder, "--reference", folder, "--generate", "--allow-code"]
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(hidden=hidden), *arguments], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (4, "")
    (first, line) = found.stderr.splitlines()
    assert first.startswith("eval")  # what is being done is said before its libraries are loaded
    assert line.startswith("q3edge: programs of models cannot be contained here (")
    assert reason in line
    assert line.endswith("or leave out --allow-code")
