"""Style, types and import rules, run like any other test so that one command checks everything."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    # One folder at a time: they hold scripts of the same names. Not peers/ and interop/runtimes/, whose tools no
    # environment has together.
    "types of benchmarks": ["mypy", *sorted(map(str, ROOT.glob("benchmarks/*.py")))],
    "types of benchmarks/accuracy": ["mypy", *sorted(map(str, ROOT.glob("benchmarks/accuracy/*.py")))],
    "types of benchmarks/interop": ["mypy", *sorted(map(str, ROOT.glob("benchmarks/interop/*.py")))],
    "types of benchmarks/speed": ["mypy", *sorted(map(str, ROOT.glob("benchmarks/speed/*.py")))],
    "imports": ["lint-imports"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_check_is_clean(name: str) -> None:
    program, *arguments = CHECKS[name]
    command = [str(Path(sysconfig.get_path("scripts")) / program), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from q3edge.cli.main import main; main(['--help']); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'rich', 'tokenizers', 'jinja2'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert "Turn any Qwen3 checkpoint" in result.stdout
