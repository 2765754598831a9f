"""The default number of threads (cores, affinity, quota), and which CPUs need exact int8 kernels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from q3edge.machine import cpu


@pytest.mark.parametrize(
    ("siblings", "quota", "expected"),
    [
        (["0,4", "1,5", "2,6", "3,7"] * 2, "max 100000", 4),
        ([str(core) for core in range(8)], "max 100000", 8),
        (["0,4", "1,5", "2,6", "3,7"] * 2, "250000 100000", 2),
        (["0,4", "1,5", "2,6", "3,7"] * 2, "50000 100000", 1),
        (None, None, 8),
    ],
)
def test_default_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siblings: list[str] | None, quota: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cpu, "_TOPOLOGY", str(tmp_path / "cpu{}"))
    monkeypatch.setattr(cpu, "_CPU_QUOTA", tmp_path / "cpu.max")
    for core, text in enumerate(siblings or []):
        (tmp_path / f"cpu{core}").write_text(text + "\n")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert cpu.default_threads() == expected


@pytest.mark.parametrize(
    ("machine", "flags", "saturate"),
    [
        ("x86_64", "fma avx2", True),
        ("x86_64", "fma avx2 avx_vnni", False),
        ("AMD64", "avx512f avx512_vnni avx512_bf16", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_exact_int8_kernels_where_products_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None, saturate: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags: {flags}\n")
    assert cpu.int8_products_saturate() is saturate
