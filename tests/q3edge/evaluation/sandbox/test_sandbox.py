"""The sandbox's verdicts, and its limits against programs that misbehave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from q3edge.evaluation.sandbox import sandbox as sandbox_module
from q3edge.evaluation.sandbox.sandbox import FILE_BYTES, Outcome, Sandbox
from tests.helpers.programs import doing, judged


def test_a_right_program_passes(sandbox: Sandbox) -> None:
    assert judged(sandbox, "import math, typing\ndef f(a): return a + math.gcd(3, 4)") == Outcome(True, "")


def test_annotations_are_evaluated_as_in_a_program_of_its_own(sandbox: Sandbox) -> None:
    assert judged(sandbox, "def f(a: int): return a + 1 if f.__annotations__['a'] is int else 0").passed


def test_a_test_knows_the_prompt_and_not_what_the_program_makes_of_it(sandbox: Sandbox) -> None:
    outcome = sandbox.judge(
        "def twice(a): return 0\ndef f(a): return 0", test="def check(f): assert f(1) == twice(1)", entry_point="f",
        prompt="def twice(a): return 2 * a",
    )  # fmt: skip
    assert outcome == Outcome(False, "AssertionError")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(a): return 3", "AssertionError: sums differ"),
        ("def f(:", "SyntaxError"),
        ("def g(a): return 2", "KeyError: 'f'"),
        ("raise SystemExit(0)", "exit code 0 before its end"),
        (doing("raise SystemExit"), "exit code 0 before its end"),
        (doing("import os\nos._exit(0)"), "exit code 0 before its end"),
        (doing("raise ValueError(a)"), "ValueError: 1"),
        (doing("class E(Exception): pass\nraise E('own')"), "RuntimeError: E: own"),
        (doing("x = bytearray(1 << 30)"), "MemoryError"),
        (doing("import os\nx = [os.open('/dev/null', 0) for _ in range(100)]"), "Too many open files"),
        (doing(f"with open('big', 'wb') as file: file.write(bytes({4 * FILE_BYTES}))"), "File too large"),
        (doing("f(a)"), "maximum recursion depth"),
        (doing("input()"), "EOFError"),
        (doing("import os\nos.kill(os.getpid(), 40)"), "ended by signal 40"),  # no name for it in Python
        ("def f(a: List[int]): return a + 1", "NameError: name 'List' is not defined"),
        ("def f(a):\n    for _ in range(300): a = [a]\n    return a", "nested more than 200 deep"),
        (doing("import threading\nthreading.Thread(target=print).start()"), "can't start new thread"),
    ],
)
def test_a_wrong_program_fails_with_its_reason(sandbox: Sandbox, program: str, reason: str) -> None:
    outcome = judged(sandbox, program)
    assert outcome.passed is False
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("program", "printed", "failure"),
    [
        ("print('é', end='')\nimport math\nprint(math.pi > 3)", "éTrue\n", ""),
        ("", "", ""),
        ("print(1)\nraise SystemExit(0)", "1\n", ""),
        ("print(1)\n1 / 0", "1\n", "ZeroDivisionError"),
        ("def f(:", "", "SyntaxError"),
        ("import os\nos.write(1, bytes([65, 255]))\nos._exit(3)", "A\ufffd", "exit code 3 before its end"),
        ("print(1)\nimport os\nos.fork()", "1\n", "PermissionError"),
        ("print(open('/etc/passwd').read())", "", "PermissionError"),
        ("open('own', 'w').write('x')\nprint(open('own').read())", "x\n", ""),
        ("x = bytearray(1 << 30)", "", "MemoryError"),
    ],
)
def test_what_a_program_prints_and_why_it_fails(sandbox: Sandbox, program: str, printed: str, failure: str) -> None:
    found = sandbox.run(program)
    assert found.text == printed
    assert failure in found.failure
    assert bool(found.failure) == bool(failure)


def test_a_program_that_prints_or_runs_for_ever_is_ended(sandbox: Sandbox) -> None:
    found = sandbox.run("print(1, flush=True)\nwhile True: pass", wall_seconds=1)
    assert (found.text, found.failure) == ("1\n", "not finished after 1 s")
    found = sandbox.run("while True: print('x' * 1000)")
    assert len(found.text) <= FILE_BYTES
    assert found.failure


def test_an_endless_loop_is_ended(sandbox: Sandbox) -> None:
    assert judged(sandbox, doing("while True: pass"), wall_seconds=1).reason == "not finished after 1 s"


def test_cpu_time_is_limited_by_the_kernel(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "CPU_SECONDS", 1)
    assert "ended by signal" in judged(sandbox, doing("while True: pass")).reason


def test_it_may_write_in_its_own_folder_which_then_is_gone(sandbox: Sandbox) -> None:
    code = "import os, tempfile\nopen('note', 'w').write('x')\nassert open('note').read() == 'x'"
    code += (
        "\nos.mkdir('d')\nos.rename('note', 'd/note')\nos.remove('d/note')\ntempfile.NamedTemporaryFile().write(b'x')"
    )
    assert judged(sandbox, doing(code)) == Outcome(True, "")
    where = "import os\nopen('note', 'w')\ndef f(a): return os.getcwd()"
    outcome = judged(sandbox, where, "def check(f): assert not f(1), f(1)")
    assert not os.path.lexists(outcome.reason.removeprefix("AssertionError: "))


MESSES = {
    "deep": "for _ in range(400):\n    os.mkdir('d')\n    os.chdir('d')",
    "unreadable": "os.mkdir('d')\nos.mkdir('d/e', 0)\nos.umask(0o777)\nopen('x', 'w')",
    "links out": "os.symlink('/', 'root')\nos.symlink('.', 'itself')",
    "odd names": "open(b'a\\n\\xff', 'w')\nos.mkdir(' ' * 200)",
}


@pytest.mark.parametrize("name", MESSES)
def test_r6_whatever_it_leaves_is_cleaned_up(sandbox: Sandbox, name: str) -> None:
    outcome = judged(sandbox, doing(f"import os\nplace = os.getcwd()\n{MESSES[name]}\nraise ValueError(place)"))
    place = Path(outcome.reason.removeprefix("ValueError: "))
    assert place.is_absolute(), outcome
    assert not os.path.lexists(place)


FLOODS = {
    "files": "for n in range(10**9): open(str(n), 'w').close()",
    "bytes": "import os\nfor n in range(10**9): open(str(n), 'wb').write(bytes(1 << 20))",
    "folders": "import os\nfor n in range(10**9):\n    os.mkdir('d')\n    os.chdir('d')",
    "hidden": "import os\nos.mkdir('d', 0o300)\nimport time\ntime.sleep(60)",
}


@pytest.mark.parametrize("name", FLOODS)
def test_r6_its_folder_is_bounded(sandbox: Sandbox, name: str) -> None:
    if name == "hidden" and os.geteuid() == 0:
        pytest.skip("root reads every folder")
    outcome = judged(sandbox, doing(FLOODS[name]))
    assert outcome == Outcome(False, "more than 1000 files or 64 MiB in its folder")


def test_a_flood_of_output_does_no_harm(sandbox: Sandbox) -> None:
    assert judged(sandbox, doing("for _ in range(100_000): print('x' * 1000)")).passed
    flood = "import sys\nfor _ in range(100_000): sys.stderr.write('x' * 1000)"
    assert "File too large" in judged(sandbox, doing(flood)).reason


def test_memory_is_the_callers_choice(sandbox: Sandbox) -> None:
    program = doing("x = bytearray(100 << 20)")
    assert judged(sandbox, program, memory=1 << 30).passed
    assert judged(sandbox, program, memory=100 << 20).reason == "MemoryError"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("import no_such_package\ndef check(f): assert f(1) == 2", "No module named 'no_such_package'"),
        ("def check(f):\n    assert (", "SyntaxError"),
        ("def test(f): pass", "KeyError: 'check'"),
        ("def check(f):\n    try: f(object())\n    except Exception: pass", "type object is no plain value"),
    ],
)
def test_a_test_at_fault_is_no_verdict_on_the_program(sandbox: Sandbox, test: str, reason: str) -> None:
    outcome = judged(sandbox, "def f(a): return 2", test)
    assert outcome.passed is None
    assert reason in outcome.reason
