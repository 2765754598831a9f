"""U15: the first line is on stderr before torch is imported, which takes seconds; what is wrong is told before too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.models import write_checkpoint

# Runs a command in a process where the import of torch ends it, as a slow one would keep it waiting.
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from q3edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("build", "MODEL", "-o", "OUT", "--json"),
        ("quantize", "MODEL", "-o", "OUT", "--method", "rtn"),
        ("sweep", "MODEL", "-o", "OUT", "--formats", "int8"),
        ("validate", "DIR", "--reference", "MODEL", "--json"),
        ("eval", "DIR", "--reference", "MODEL", "--json"),
        ("diff", "DIR", "MODEL", "--json"),
        ("report", "DIR", "MODEL", "-o", "PAGE"),
        ("demo", "-o", "OUT"),
    ],
    ids=lambda words: words[0],
)
def test_u15_the_first_line_comes_before_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "DIR").mkdir()
    write_checkpoint(tmp_path / "MODEL")
    given = [tmp_path / word if word.isupper() else word for word in words]
    done = run(*given)
    first, last = done.stderr.splitlines()[0], done.stderr.splitlines()[-1]
    assert first.startswith(words[0])
    assert first.endswith(": loading PyTorch, which takes some seconds")
    assert "this needs the package torch" in last
    assert (done.returncode, done.stdout) == (4, "")


@pytest.mark.parametrize("verb", ["build", "quantize", "sweep"])
def test_u15_a_model_that_is_not_there_is_told_without_torch(verb: str, tmp_path: Path) -> None:
    done = run(verb, tmp_path / "nowhere", "-o", tmp_path / "out", *(["--formats", "int8"] * (verb == "sweep")))
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"q3edge: {tmp_path}/nowhere: not found; expected a model folder or a hub id such as Qwen/Qwen3-0.6B"
    ]
