"""Files are the old or the new one whatever happens, and what killed processes left does not stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from q3edge.errors import ResourceError
from q3edge.storage.exchange import exchange
from q3edge.storage.whole_files import partial_folder, remove_all_leftovers, write_whole, written_whole

_KILLED = """
import os, sys
from pathlib import Path
from q3edge.storage.whole_files import written_whole
with written_whole(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    if len(sys.argv) > 2:
        print("writing", flush=True)
        sys.stdin.read()
    os._exit(9)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "ä")
    assert path.read_bytes() == "ä".encode()
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert names(path.parent) == ["a.txt"]


def test_what_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, "old")

    def fail() -> None:
        with written_whole(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_whole(tmp_path / "a", "x")
    assert steps == ["fsync", "replace"]


def test_a_killed_process_leaves_a_file_that_the_next_removes(tmp_path: Path) -> None:
    path = tmp_path / "[a]*"
    write_whole(path, "old")
    child = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert child.returncode == 9
    (left,) = (name for name in names(tmp_path) if "partial" in name)
    assert left.startswith(".[a]*.partial-")
    write_whole(tmp_path / "b", "x")
    assert left in names(tmp_path)
    write_whole(path, "new")
    assert names(tmp_path) == ["[a]*", "b"]
    assert path.read_text() == "new"


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    command = [sys.executable, "-c", _KILLED, str(path), "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        write_whole(path, "mine")
        remove_all_leftovers(tmp_path)
        assert len(names(tmp_path)) == 2
        child.communicate()
    remove_all_leftovers(tmp_path)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("place", ["file/a", "folder"])
def test_the_error_names_the_file_and_what_to_do(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match=rf"{place}: cannot be written \(.*\); ask for more$"):
        write_whole(tmp_path / place, "x", "ask for more")
    assert names(tmp_path) == ["file", "folder"]


def test_a_partial_folder_is_removed_or_renamed(tmp_path: Path) -> None:
    (tmp_path / ".a.partial-1").mkdir()
    (tmp_path / ".a.partial-1" / "half").touch()
    with partial_folder(tmp_path / "a") as partial:
        (partial / "file").touch()
        assert names(tmp_path) == [partial.name]
        remove_all_leftovers(tmp_path)
        assert partial.is_dir()
    assert names(tmp_path) == []
    with partial_folder(tmp_path / "a") as partial:
        partial.rename(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_folders_change_places(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert not exchange(tmp_path / "a", tmp_path / "missing")
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system or disk cannot exchange names")
    assert [names(tmp_path / name) for name in ("a", "b")] == [["b"], ["a"]]
