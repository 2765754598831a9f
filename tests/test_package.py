"""What an installed q3edge puts into an environment: one package, with everything in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.wheels import PARTS, build_wheel

ROOT = Path(__file__).resolve().parent.parent
_TOLD = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")

pytest.importorskip("setuptools", reason="setuptools is not installed")


def test_onnxruntime_keeps_no_record_of_its_use(tmp_path: Path) -> None:
    """Which it would send to its makers: it leaves a name of the machine and a data base of events below HOME."""
    environment = {name: value for name, value in os.environ.items() if name not in _TOLD}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    code = "import q3edge.runtime.session.network"
    subprocess.run([sys.executable, "-B", "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_wheel_holds_the_package_alone_and_all_of_it(tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(build_wheel(tmp_path)).namelist())
    code = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in code} == {"q3edge"}
    modules = {path.relative_to(ROOT).as_posix() for part in PARTS[:3] for path in (ROOT / part).rglob("*.py")}
    packed = {name if name.startswith("q3edge/") else f"q3edge/{name}" for name in modules}
    assert {name for name in code if name.endswith(".py")} == packed
    folders = (ROOT / "q3edge" / "data", ROOT / "q3edge" / "server" / "page")
    data = {path for folder in folders for path in folder.rglob("*.*") if path.suffix not in {".py", ".pyc"}}
    assert {path.relative_to(ROOT).as_posix() for path in data} <= code
