"""The default number of threads: physical cores, within the affinity mask and the container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from q3edge.runtime import threads


@pytest.mark.parametrize(
    ("siblings", "quota", "expected"),
    [
        (["0,4", "1,5", "2,6", "3,7"] * 2, "max 100000", 4),
        ([str(cpu) for cpu in range(8)], "max 100000", 8),
        (["0,4", "1,5", "2,6", "3,7"] * 2, "250000 100000", 2),
        (["0,4", "1,5", "2,6", "3,7"] * 2, "50000 100000", 1),
        (None, None, 8),
    ],
)
def test_default_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siblings: list[str] | None, quota: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "_TOPOLOGY", str(tmp_path / "cpu{}"))
    monkeypatch.setattr(threads, "_CPU_QUOTA", tmp_path / "cpu.max")
    for cpu, text in enumerate(siblings or []):
        (tmp_path / f"cpu{cpu}").write_text(text + "\n")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert threads.default_threads() == expected
