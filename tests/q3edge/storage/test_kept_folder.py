"""What is kept between runs: listed, removed on demand, and within bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from q3edge.errors import ResourceError
from q3edge.storage.kept_folder import UNUSED_DAYS, keep_origin, kept_entries, kept_folder, make_room, remove_all
from q3edge.storage.locks import output_lock

DAY = 24 * 3600


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def entry(place: Path, size: int, days: float) -> Path:
    """Folder with two files, the newer of which was last used so many days ago."""
    place.mkdir(parents=True)
    for name, part, older in (("data", size - 10, 100), ("index", 10, 0)):
        (place / name).write_bytes(b"x" * part)
        os.utime(place / name, (0, time.time() - (days + older) * DAY))
    return place


def test_entries_have_their_sizes_and_the_longest_unused_comes_first(kept: Path) -> None:
    entry(kept / "kernels" / "new", 500, 1)
    entry(kept / "kernels" / "old", 300, 9)
    (kept / "kernels" / ".x.partial-1").mkdir()
    (kept / "kernels" / ".old.lock").touch()
    entry(kept / "evaluations" / "float" / "k-1", 40, 1)
    (kept / "evaluations" / "scorecards").mkdir()
    (kept / "evaluations" / "scorecards" / "a.json").write_text("12345")
    assert [(found.name, found.size) for found in kept_entries("kernels")] == [("old", 300), ("new", 500)]
    assert [(found.name, found.size) for found in kept_entries("evaluations")] == [
        ("float/k-1", 40),
        ("scorecards/a.json", 5),
    ]
    assert kept_entries("experts") == []


def test_what_nobody_used_for_long_goes(kept: Path) -> None:
    young, old = (entry(kept / "kernels" / name, 50, UNUSED_DAYS + days) for name, days in (("a", -1), ("b", 1)))
    own = entry(kept / "kernels" / "own", 50, UNUSED_DAYS + 5)
    other_kind = entry(kept / "experts" / "b", 50, UNUSED_DAYS + 1)
    removed = list(make_room("kernels", own))
    assert [(found.path, reason) for found, reason in removed] == [(old, f"not used for {UNUSED_DAYS} days")]
    assert [place.exists() for place in (young, old, own, other_kind)] == [True, False, True, True]


@pytest.mark.parametrize(("most", "left"), [(1000, "abc"), (999, "bc"), (600, "bc"), (599, "c"), (0, "c")])
def test_the_longest_unused_go_until_the_rest_fits_and_the_one_just_made_stays(
    kept: Path, most: int, left: str
) -> None:
    for name, size, days in (("a", 400, 3), ("b", 300, 2), ("c", 300, 1)):
        entry(kept / "kernels" / name, size, days)
    removed = [found.name for found, _ in make_room("kernels", kept / "kernels" / "c", most)]
    assert sorted(left + "".join(removed)) == list("abc")
    assert [place.name for place in sorted((kept / "kernels").iterdir())] == list(left)


def test_a_small_disk_bounds_it(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"total": 1000})()
    monkeypatch.setattr("q3edge.storage.kept_folder.shutil.disk_usage", lambda _: usage)
    for name, days in (("a", 2), ("b", 1)):
        entry(kept / "kernels" / name, 60, days)
    assert [found.name for found, _ in make_room("kernels", kept / "kernels" / "new")] == ["a"]


def test_all_is_removed_but_what_another_process_is_making(kept: Path) -> None:
    entry(kept / "kernels" / "done", 100, 1)
    held = entry(kept / "kernels" / "held", 50, 1)
    entry(kept / "evaluations" / "float" / "k", 70, 1)
    code = (
        "import sys; from pathlib import Path; from q3edge.storage.locks import output_lock\n"
        "with output_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ResourceError, match=r"held: process \d+ is working.*gone: 2 entries, 0\.0 MB"):
            remove_all(["kernels", "evaluations"])
        assert [found.path for found in kept_entries("kernels")] == [held]
        holder.stdin.close()
    assert [(found.name, found.size) for found in remove_all(["kernels"])] == [("held", 50)]
    assert not kept_folder("kernels").exists()
    assert not kept_folder("evaluations").exists()


def test_lock_files_that_killed_processes_left_go_and_those_that_are_held_stay(kept: Path) -> None:
    for place in (kept / "kernels", kept / "evaluations" / "float"):
        place.mkdir(parents=True)
        (place / ".gone.lock").write_text("process 1")
    with output_lock(kept / "kernels" / "held"):
        remove_all(["kernels", "evaluations"])
        assert [path.relative_to(kept).as_posix() for path in kept.rglob("*.lock")] == ["kernels/.held.lock"]
    remove_all(["kernels"])
    assert list(kept.iterdir()) == []


def test_an_entry_says_of_which_model_it_was_made(kept: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        entry(kept / "kernels" / name, 100, 1)
    keep_origin(kept / "kernels" / "a", tmp_path / "model")
    keep_origin(kept / "kernels" / "removed", tmp_path / "model")
    assert {found.name: found.of for found in kept_entries("kernels")} == {"a": str(tmp_path / "model"), "b": ""}


def test_a_mapped_file_outlives_its_removal(kept: Path) -> None:
    place = entry(kept / "kernels" / "a", 100, 1)
    with (place / "data").open("rb") as file:
        remove_all(["kernels"])
        assert len(file.read()) == 90
    assert not place.exists()
