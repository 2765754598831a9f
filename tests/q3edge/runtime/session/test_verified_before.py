"""Files that were verified are not hashed again until they change: what tells a change, and who hashes all the same."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from q3edge.artifact import DATA_FILE, MODEL_FILE, Manifest
from q3edge.errors import InputError
from q3edge.runtime.model import Model
from q3edge.runtime.session import verified_before
from q3edge.runtime.session.loader import open_artifact, open_graph
from q3edge.runtime.session.verified_before import DAYS, FOLDER, ContentState
from q3edge.storage.sealed_json import read_sealed, write_sealed
from tests.helpers.runtime import write_artifact

CONTENT = ("config.json", MODEL_FILE, DATA_FILE, "tokenizer.json")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("verified") / "artifact")


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and a place of its own for what is kept of it; its files count as written long ago."""
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(verified_before, "_SETTLED", -3600)
    return Path(shutil.copytree(original, tmp_path / "artifact"))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, in order."""
    found: list[str] = []
    verify = Manifest.verify_content

    def noted(self: Manifest, folder: Path, name: str) -> None:
        found.append(name)
        verify(self, folder, name)

    monkeypatch.setattr(Manifest, "verify_content", noted)
    return found


def record(folder: Path) -> Path:
    (path,) = (folder.parent / "kept" / FOLDER).iterdir()
    return path


def open_and_close(folder: Path) -> None:
    Model.open(folder, threads=1, kernels="onnxruntime").close()


def flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


def test_a_second_start_hashes_nothing(folder: Path, hashed: list[str]) -> None:
    open_and_close(folder)
    assert set(CONTENT) <= set(hashed)
    hashed.clear()
    open_and_close(folder)
    assert hashed == []


@pytest.mark.parametrize("name", CONTENT)
def test_a_changed_file_is_found_though_size_and_time_are_the_same(folder: Path, name: str) -> None:
    open_and_close(folder)
    path = folder / name
    before, content = path.stat(), flipped(path)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=f"{name}: sha256 differs"):
        open_and_close(folder)


def test_another_file_in_its_place_is_found(folder: Path) -> None:
    open_and_close(folder)
    path = folder / DATA_FILE
    before = path.stat()
    (folder / "other").write_bytes(flipped(path))
    os.utime(folder / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "other").replace(path)
    with pytest.raises(InputError, match="sha256 differs"):
        open_and_close(folder)


def test_a_manifest_that_expects_something_else_is_heard(folder: Path) -> None:
    open_and_close(folder)
    manifest = (folder / "q3edge.json").read_text()
    digest = Manifest.load(folder).files[DATA_FILE].sha256
    (folder / "q3edge.json").write_text(manifest.replace(digest, digest[::-1]))
    with pytest.raises(InputError, match="sha256 differs"):
        open_and_close(folder)


def test_files_that_were_just_written_are_hashed_again(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within a step of the disk's clock would leave the same times."""
    monkeypatch.setattr(verified_before, "_SETTLED", 3600)
    open_and_close(folder)
    hashed.clear()
    open_and_close(folder)
    assert DATA_FILE in hashed


def test_files_that_change_while_they_are_hashed_are_hashed_again(folder: Path, hashed: list[str]) -> None:
    manifest = Manifest.load(folder)
    state = ContentState.read(folder, manifest)
    os.utime(folder / DATA_FILE)
    state.keep()
    assert not (folder.parent / "kept" / FOLDER).exists()
    open_and_close(folder)
    assert DATA_FILE in hashed


def test_all_is_hashed_where_verification_is_asked_for(folder: Path, hashed: list[str]) -> None:
    """As where a disk has lost what it holds, and no time of a file tells it."""
    open_and_close(folder)
    (folder / DATA_FILE).write_bytes(flipped(folder / DATA_FILE))
    changed = ContentState.read(folder, Manifest.load(folder))
    write_sealed(record(folder), {"time": changed.time, "files": changed.files})
    assert open_graph(folder).verified
    hashed.clear()
    with pytest.raises(InputError, match="sha256 differs"):
        open_artifact(folder)
    assert set(CONTENT) <= set(hashed)
    assert not open_graph(folder, afresh=True).verified


@pytest.mark.parametrize("seconds", [DAYS * 24 * 3600 + 60, -60])
def test_what_is_old_or_of_another_clock_does_not_count(folder: Path, hashed: list[str], seconds: float) -> None:
    open_and_close(folder)
    kept = read_sealed(record(folder))
    write_sealed(record(folder), {**kept, "time": time.time() - seconds})
    hashed.clear()
    open_and_close(folder)
    assert DATA_FILE in hashed
    assert abs(read_sealed(record(folder))["time"] - time.time()) < 60


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"sha256": "0", "value": 1}', None])
def test_a_damaged_record_is_none(folder: Path, hashed: list[str], damage: bytes | None) -> None:
    open_and_close(folder)
    path = record(folder)
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    hashed.clear()
    open_and_close(folder)
    assert DATA_FILE in hashed
    assert open_graph(folder).verified


def test_a_place_that_cannot_be_written_prevents_nothing(
    folder: Path, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        hashed.clear()
        open_and_close(folder)
        assert DATA_FILE in hashed
