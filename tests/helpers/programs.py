"""Programs for the sandbox to judge, and the processes that they might leave."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from q3edge.errors import ResourceError
from q3edge.evaluation.sandbox.confinement import Kernel, find_kernel
from q3edge.evaluation.sandbox.sandbox import Outcome, Sandbox

TEST = "def check(f):\n    assert f(1) == 2, 'sums differ'\n"


def kernel_or_skip() -> Kernel:
    try:
        return find_kernel()
    except ResourceError as error:
        pytest.skip(str(error))


def judged(sandbox: Sandbox, source: str, test: str = TEST, **limits: float) -> Outcome:
    return sandbox.judge(source, test=test, entry_point="f", **limits)  # type: ignore[arg-type]


def doing(code: str) -> str:
    """Program whose function runs `code` and is then right."""
    return "def f(a):\n" + "".join(f"    {line}\n" for line in code.split("\n")) + "    return a + 1\n"


def commands() -> list[str]:
    """Of all processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found.append(path.read_text(errors="replace"))
    return found
