"""How much memory a process may use, as the system and a container tell it; speeds are only measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from q3edge.machine import memory
from q3edge.machine.memory import available_memory
from q3edge.machine.speed import matrix_speed, read_bandwidth

MIB = 1 << 20


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1000 MiB available and a process of 25 pages; no container."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "statm").write_text("100 25 10 1 0 50 0\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: {4000 * 1024} kB\nMemAvailable:   {1000 * 1024} kB\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr("os.sysconf", lambda _name: MIB)
    return tmp_path


def test_what_the_process_holds_counts_as_available(system: Path) -> None:
    assert available_memory() == 1025 * MIB


@pytest.mark.parametrize(
    ("limit", "expected"), [(f"{600 * MIB}", 325), (f"{9000 * MIB}", 1025), ("max", 1025), (f"{100 * MIB}", 25)]
)
def test_a_container_may_leave_less(limit: str, expected: int, system: Path) -> None:
    (system / "memory.max").write_text(f"{limit}\n")
    (system / "memory.current").write_text(f"{400 * MIB}\n")
    (system / "memory.stat").write_text(f"anon 5\ninactive_file {100 * MIB}\n")
    assert available_memory() == expected * MIB


@pytest.mark.parametrize(
    ("service", "slice_", "expected"), [("300", "max", 325), ("max", "200", 225), ("max", "max", 1025)]
)
def test_a_service_and_what_is_around_it_may_leave_less(service: str, slice_: str, expected: int, system: Path) -> None:
    (system / "self" / "cgroup").write_text("4:memory:/other\n0::/system.slice/q3edge.service\n")
    for name, limit in (("system.slice/q3edge.service", service), ("system.slice", slice_)):
        (system / name).mkdir(parents=True, exist_ok=True)
        (system / name / "memory.max").write_text(limit if limit == "max" else str(int(limit) * MIB))
        (system / name / "memory.current").write_text("0\n")
        (system / name / "memory.stat").write_text("inactive_file 0\n")
    assert available_memory() == expected * MIB


def test_groups_of_version_1_count_with_those_around_them(system: Path) -> None:
    (system / "self" / "cgroup").write_text("5:cpuset:/x\n4:memory,hugetlb:/slice/job\n0::/\n")
    for name, limit, used, files in (("slice/job", 1 << 62, 0, 0), ("slice", 300 * MIB, 200 * MIB, 50 * MIB)):
        group = system / "memory" / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (group / "memory.usage_in_bytes").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {files}\n")
    assert available_memory() == (25 + 150) * MIB


def test_a_group_outside_the_container_s_view_is_passed_over(system: Path) -> None:
    (system / "self" / "cgroup").write_text("0::/docker/1234\n")
    (system / "memory.max").write_text(f"{300 * MIB}\n")
    (system / "memory.current").write_text("0\n")
    (system / "memory.stat").write_text("inactive_file 0\n")
    assert available_memory() == 325 * MIB


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert available_memory() is None


def test_speeds_are_those_of_a_computer() -> None:
    assert 1e8 < read_bandwidth() < 1e13
    assert 1e8 < matrix_speed() < 1e15
