"""The line that installs an extra, for each way in which pip installs a package (PEP 610)."""

from __future__ import annotations

import json
import shlex
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from q3edge.machine import extras
from q3edge.machine.extras import install_line

CLONE = {"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}}
ROOT = Path(__file__).resolve().parents[3]
WHEEL = "file:///tmp/q3edge-0.1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("recorded", "line"),
    [
        (CLONE, "pip install -e '/home/me/my clone[quantize]'"),
        ({**CLONE, "dir_info": {}}, "pip install '/home/me/my clone[quantize]'"),
        ({"url": WHEEL, "archive_info": {}}, f"pip install 'q3edge[quantize] @ {WHEEL}'"),
        (
            {"url": "https://example.org/q3edge.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'q3edge[quantize] @ git+https://example.org/q3edge.git'",
        ),
        (None, "pip install 'q3edge[quantize]'"),
        ([], "pip install 'q3edge[quantize]'"),
    ],
)
def test_u3_the_line_works_for_the_way_it_was_installed(
    recorded: object, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if recorded is None else json.dumps(recorded)
    packages = ROOT / "site-packages"
    monkeypatch.setattr(extras, "__file__", str(packages / "q3edge" / "machine" / "extras.py"))
    monkeypatch.setattr(metadata, "distributions", lambda name: [installed(None), installed(text)])
    assert install_line("quantize") == line


@pytest.mark.parametrize("found", [(), ("egg-info",)], ids=["not installed", "an egg-info beside the code"])
def test_u3_without_a_record_it_is_the_source_tree(found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda name: [installed(None) for _ in found])
    assert install_line("eval") == f"pip install -e {shlex.quote(f'{ROOT}[eval]')}"


def installed(text: str | None) -> SimpleNamespace:
    """A distribution with this direct_url.json."""
    return SimpleNamespace(read_text=lambda _: text)


def test_the_table_of_extras_is_that_of_the_package() -> None:
    """Names of what is imported differ from those of packages; each extra has as many."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    others = {"serve", "docs", "test", "dev"}  # of other extras, or for those who change the code
    assert set(extras.EXTRAS) == set(found) - others
    for name, packages in extras.EXTRAS.items():
        assert len(packages) == sum(not line.startswith("q3edge[") for line in found[name]), name


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "made-up", ("json", "no_such_package"))
    assert extras.missing_packages("made-up") == ("no_such_package",)
