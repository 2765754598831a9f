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
    monkeypatch.setattr(cpu, "_CAPACITY", str(tmp_path / "none{}"))
    for core, text in enumerate(siblings or []):
        (tmp_path / f"cpu{core}").write_text(text + "\n")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert cpu.default_threads() == expected


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, line: str | None) -> None:
    """Pretend to run on `machine`, with a line of /proc/cpuinfo, or without the file."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    if line is not None:
        (tmp_path / "cpuinfo").write_text(f"processor: 0\n{line}\n")


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
    pretend(tmp_path, monkeypatch, machine, flags and f"flags: {flags}")
    assert cpu.int8_products_saturate() is saturate


@pytest.mark.parametrize(
    ("capacities", "expected"),
    [
        ([1024] * 4, 4),
        ([446, 446, 446, 446, 1024, 1024], 2),  # Cortex-A55 and A76
        ([290, 290, 290, 290, 870, 870, 870, 1024], 4),  # little, middle and one larger still
        ([], 6),
    ],
)
def test_a6_little_cores_take_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacities: list[int], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(len(capacities) or 6)), raising=False)
    monkeypatch.setattr(cpu, "_TOPOLOGY", str(tmp_path / "none{}"))
    monkeypatch.setattr(cpu, "_CPU_QUOTA", tmp_path / "none")
    monkeypatch.setattr(cpu, "_CAPACITY", str(tmp_path / "cpu{}"))
    for core, capacity in enumerate(capacities):
        (tmp_path / f"cpu{core}").write_text(f"{capacity}\n")
    assert cpu.default_threads() == expected


ARM_CORE = "processor: 0\nFeatures: {}\nCPU implementer: {}\nCPU architecture: 8\nCPU part: {}\n\n"


@pytest.mark.parametrize(
    ("board", "cores", "expected"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4\0", [("0x41", "0xd08")] * 4, "Raspberry Pi 4 Model B Rev 1.4, Cortex-A72"),
        (None, [("0x41", "0xd05")] * 2 + [("0x41", "0xd0b")], "Cortex-A55 + Cortex-A76"),
        (None, [("0x61", "0x022")], "Arm implementer 0x61 part 0x022"),
    ],
)
def test_a4_the_name_of_an_arm_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: str | None, cores: list[tuple[str, str]], expected: str
) -> None:
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu, "_BOARD", tmp_path / "model")
    (tmp_path / "cpuinfo").write_text("".join(ARM_CORE.format("fp asimd", *core) for core in cores))
    if board is not None:
        (tmp_path / "model").write_text(board)
    assert cpu.cpu_name().startswith(f"{expected} (")


@pytest.mark.parametrize(
    ("machine", "features", "slow"),
    [
        ("aarch64", "fp asimd", True),
        ("arm64", "fp asimd", True),
        ("aarch64", "fp asimd asimddp", False),
        ("aarch64", None, False),  # not known
        ("x86_64", "fma avx2", False),
    ],
)
def test_a2_block_products_are_slow_on_arm_without_dot_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, features: str | None, slow: bool
) -> None:
    pretend(tmp_path, monkeypatch, machine, features and f"Features: {features}")
    assert ("int8-dynamic" in (cpu.slow_block_products() or "")) is slow
