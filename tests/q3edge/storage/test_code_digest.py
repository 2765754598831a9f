"""What is kept is keyed by the code that made it: any change of it gives another digest, and nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import q3edge
from q3edge.evaluation.cache import cache_key
from q3edge.pipeline.quantize.calibrate import _CODE
from q3edge.pipeline.sweep import ledger
from q3edge.storage import code_digest as module
from q3edge.storage.code_digest import code_digest, digest_of_sources

NAMES = ("calibration.layers", "reference", "version")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """As a wheel installs it: no links, compiled files beside the sources."""
    found = shutil.copytree(Path(q3edge.__file__).parent, tmp_path / "q3edge", ignore=shutil.ignore_patterns("data"))
    assert not (found / "calibration").is_symlink()
    return found


def test_a_checkout_and_an_installed_copy_have_the_same(package: Path) -> None:
    assert digest_of_sources(package, *NAMES) == code_digest(*NAMES) == code_digest(*reversed(NAMES))


@pytest.mark.parametrize("name", ["calibration/layers/layerwise.py", "reference/__init__.py", "version.py"])
def test_any_change_of_the_code_gives_another(package: Path, name: str) -> None:
    before = digest_of_sources(package, *NAMES)
    path = package / name
    path.write_bytes(path.read_bytes() + b"\n")
    changed = digest_of_sources(package, *NAMES)
    path.rename(path.with_name("moved.py"))
    if name != "version.py":
        assert len({before, changed, digest_of_sources(package, *NAMES)}) == 3
    assert changed != before


def test_other_code_and_what_is_no_source_change_nothing(package: Path) -> None:
    before = digest_of_sources(package, *NAMES)
    (package / "evaluation" / "cache.py").write_text("other")
    (package / "reference" / "notes.txt").write_text("other")
    (package / "reference" / "__pycache__").mkdir(exist_ok=True)
    (package / "reference" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"other")
    assert digest_of_sources(package, *NAMES) == before


def test_overlapping_names_count_once_and_unknown_ones_are_refused(package: Path) -> None:
    both = digest_of_sources(package, "calibration", "calibration.layers")
    assert both == digest_of_sources(package, "calibration")
    with pytest.raises(ValueError, match=r"calibration\.layer: no source below"):
        digest_of_sources(package, "calibration.layer")


@pytest.mark.parametrize("names", [_CODE, ledger._CODE], ids=["calibration", "sweep"])
def test_what_is_named_exists(names: tuple[str, ...]) -> None:
    assert len(code_digest(*names)) == 64


def test_a_sweep_of_other_code_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    from q3edge.pipeline.sweep.variants import VariantRequest

    before = ledger.request_digest("model", VariantRequest("float"), None)
    assert ledger.request_digest("model", VariantRequest("float"), None) == before
    monkeypatch.setattr(ledger, "code_digest", lambda *_: cache_key(code="other"))
    assert ledger.request_digest("model", VariantRequest("float"), None) != before


def test_it_is_read_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = code_digest("version")
    monkeypatch.setattr(module, "digest_of_sources", lambda *_: pytest.fail("read again"))
    assert code_digest("version") == expected
