"""The image and the unit of docs/serving.md: what they copy exists, and what they run is a command of ours."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path

import pytest

from q3edge.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]
IMAGE, UNIT = ROOT / "examples" / "Dockerfile", ROOT / "examples" / "q3edge.service"


def check_command(words: Sequence[str]) -> None:
    """Parse a command line as the command would."""
    program, verb, *arguments = words
    assert Path(program).name == "q3edge"
    cli.commands[verb].make_context(verb, list(arguments))


def test_the_image_copies_what_exists_and_runs_a_command() -> None:
    lines = [line for line in IMAGE.read_text().splitlines() if line and not line.startswith("#")]
    words = [line.partition(" ") for line in lines]
    assert [word for word, _, _ in words] == sorted(
        (word for word, _, _ in words),
        key=["FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT"].index,
    )
    for word, _, rest in words:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    (run,) = (rest for word, _, rest in words if word == "RUN")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\[(\S+)\]'", run)) <= set(extras)
    check_command(json.loads(words[-1][2]))


def test_the_unit_runs_a_command() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    assert unit.sections() == ["Unit", "Service", "Install"]
    check_command(shlex.split(unit["Service"]["ExecStart"]))
    assert int(unit["Service"]["TimeoutStopSec"]) >= 10  # answers have time to end


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "q3edge.service"
    copy.write_text(UNIT.read_text().replace("/opt/q3edge/bin/q3edge", "/bin/true"))
    result = subprocess.run([program, "verify", str(copy)], capture_output=True, text=True, check=False)
    assert "q3edge.service" not in result.stderr, result.stderr
