"""Removal of folders, however they are made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from q3edge.storage.removal import remove_folder
from q3edge.storage.whole_files import scratch_folder


def nest(folder: Path, depth: int) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("inner", dir_fd=here)
        there = os.open("inner", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_r6_three_thousand_nested_folders_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    nest(folder, 1100)
    remove_folder(folder)
    assert not folder.exists()


def test_r6_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    for path in (folder, other, folder / "a", folder / "b"):
        path.mkdir()
    (other / "kept").write_text("kept")
    (folder / "a" / "link").symlink_to(other)
    (folder / "b" / "itself").symlink_to(folder)
    remove_folder(folder)
    assert not folder.exists()
    assert (other / "kept").read_text() == "kept"


def test_r6_closed_folders_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").write_text("c")
    for path in (folder / "a" / "b", folder / "a", folder):
        path.chmod(0)
    remove_folder(folder)
    assert not folder.exists()


def test_r6_what_a_killed_run_left_nested_does_not_end_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "q3edge-test-left"
    left.mkdir()
    nest(left, 1100)
    with scratch_folder("q3edge-test-") as folder:
        assert not left.exists()
        nest(folder, 1100)
    assert not folder.exists()
