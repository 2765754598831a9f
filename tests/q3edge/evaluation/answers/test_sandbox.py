"""The sandbox against programs that misbehave, and against those that only pretend to succeed."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from q3edge.evaluation.answers import sandbox as sandbox_module
from q3edge.evaluation.answers.sandbox import FILE_BYTES, Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox.open()


def test_a_good_program_passes(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import math, typing\nassert math.gcd(12, 18) == 6")
    assert (outcome.passed, outcome.reason) == (True, "")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'sums differ'", "AssertionError: sums differ"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "exit code 0 before its end"),
        ("import os\nos._exit(0)", "exit code 0 before its end"),
        ("print('0' * 32)\nraise SystemExit", "exit code 0 before its end"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("import os\nx = [os.open('/dev/null', 0) for _ in range(100)]", "Too many open files"),
        (f"with open('big', 'wb') as file: file.write(bytes({4 * FILE_BYTES}))", "File too large"),
        ("import os\nos.fork()", "refuses os.fork"),
        ("import subprocess\nsubprocess.run(['true'])", "refuses subprocess.Popen"),
        ("open('/tmp/q3edge-sandbox-escaped', 'w')", "refuses to write /tmp/q3edge-sandbox-escaped"),
        ("import os\nos.remove('/etc/hostname')", "refuses os.remove"),
        ("import socket\nsocket.socket()", "refuses socket"),
        ("import os\nos.kill(1, 9)", "refuses os.kill"),
        ("input()", "EOFError"),
    ],
)
def test_a_bad_program_fails_with_its_reason(sandbox: Sandbox, program: str, reason: str) -> None:
    outcome = sandbox.run(program)
    assert not outcome.passed
    assert reason in outcome.reason
    assert not Path("/tmp/q3edge-sandbox-escaped").exists()


def test_an_endless_loop_is_ended(sandbox: Sandbox) -> None:
    outcome = sandbox.run("while True: pass", wall_seconds=1)
    assert outcome.reason == "not finished after 1 s"


def test_cpu_time_is_limited_by_the_kernel(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "CPU_SECONDS", 1)
    assert "ended by " in sandbox.run("while True: pass").reason


def test_it_may_write_in_its_own_folder_which_then_is_gone(sandbox: Sandbox) -> None:
    assert sandbox.run("open('note', 'w').write('x')\nassert open('note').read() == 'x'").passed


def test_it_sees_nothing_of_our_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "1")
    assert sandbox.run(
        "import os\nassert set(os.environ) <= {'PATH', 'LD_LIBRARY_PATH', 'LC_CTYPE'}, os.environ"
    ).passed


def test_a_flood_of_output_does_no_harm(sandbox: Sandbox) -> None:
    assert sandbox.run("for _ in range(100_000): print('x' * 1000)").passed
    flood = "import sys\nfor _ in range(100_000): sys.stderr.write('x' * 1000)"
    assert not sandbox.run(flood).passed


def test_memory_is_the_callers_choice(sandbox: Sandbox) -> None:
    program = "x = bytearray(100 << 20)"
    assert sandbox.run(program, memory=1 << 30).passed
    assert sandbox.run(program, memory=100 << 20).reason == "MemoryError"


def test_a_flood_into_the_report_is_cut(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import os\nfor _ in range(1000): os.write(3, bytes(1 << 20))")
    assert "File too large" in outcome.reason


def commands() -> list[str]:
    """Of all processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found.append(path.read_text(errors="replace"))
    return found


CHILD = """\
import _posixsubprocess, os, time
read, write = os.pipe()
word = (b"sleep", b"{seconds}")
path = (b"/bin/sleep", b"/usr/bin/sleep")
_posixsubprocess.fork_exec(
    word, path, True, (write,), None, None, -1, -1, -1, -1, -1, -1, read, write, False, True, -1, None, None, None,
    -1, None, True,
)
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="what gets round Python's refusal is 3.11's own")
@pytest.mark.parametrize(("end", "seconds"), [("", 3611), ("while True: pass", 3613)])
def test_no_process_outlives_its_program(sandbox: Sandbox, end: str, seconds: int) -> None:
    """Where Python's own refusal is got round, and the process has a session of its own."""
    if "--pid" not in sandbox.prefix:
        pytest.skip("; ".join(sandbox.weaknesses))
    sandbox.run(CHILD.format(seconds=seconds) + end, wall_seconds=2)
    deadline = time.perf_counter() + 10  # the kernel ends what is left on its own time
    while (found := commands().count(f"sleep\0{seconds}\0")) and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert not found


def test_processes_are_limited_by_the_kernel_too(sandbox: Sandbox) -> None:
    """Where Python's own refusal is got round."""
    if sandbox.weaknesses:
        pytest.skip("; ".join(sandbox.weaknesses))
    limit = "import resource\nassert resource.getrlimit(resource.RLIMIT_NPROC) == (1, 1) and __import__('os').getuid()"
    assert sandbox.run(limit).passed


def test_the_network_is_gone_where_nothing_is_reported(sandbox: Sandbox) -> None:
    if not sandbox.prefix:
        pytest.skip("unshare does not work here")
    only_loopback = "assert open('/proc/self/net/dev').read().count(':') == 1"
    assert sandbox.run(only_loopback).passed


def test_what_cannot_be_had_is_said() -> None:
    found = Sandbox((), -1).weaknesses
    assert "access to the network" in found[0]
    assert "leave processes behind" in found[1]
    assert len(found) == (3 if os.geteuid() == 0 else 2)
