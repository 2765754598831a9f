"""How full a folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from q3edge.evaluation.sandbox.folders import MAX_BYTES, MAX_ENTRIES, is_overfull


@pytest.mark.parametrize(("count", "over"), [(MAX_ENTRIES, False), (MAX_ENTRIES + 1, True)])
def test_r6_entries_are_counted(tmp_path: Path, count: int, over: bool) -> None:
    for number in range(count):
        (tmp_path / str(number)).touch()
    assert is_overfull(str(tmp_path)) is over


def test_r6_bytes_on_the_disk_are_counted(tmp_path: Path) -> None:
    (tmp_path / "sparse").open("wb").truncate(2 * MAX_BYTES)
    assert not is_overfull(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").write_bytes(bytes(MAX_BYTES + 4096))
    assert is_overfull(tmp_path)


def test_r6_what_is_nested_beyond_a_path_is_overfull(tmp_path: Path) -> None:
    assert is_overfull(tmp_path / ("a" * 300))
    assert not is_overfull(tmp_path / "gone")
