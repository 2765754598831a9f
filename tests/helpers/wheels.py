"""Wheels of this package, built from a copy of the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("q3edge", "calibration", "exporters", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(folder: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Build a wheel in `folder`, with other variables; links stay links."""
    source = folder / "source"
    source.mkdir()
    built = shutil.ignore_patterns("__pycache__", "*.so")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=built)
        else:
            shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    variables = {**os.environ, **(environment or {})}
    command = [sys.executable, "-c", build]
    result = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel
