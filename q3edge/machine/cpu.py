"""Facts of this CPU: name, instruction sets, best number of threads, exact and fast products."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "quota period" in microseconds, or "max period"
_CPU_INFO = Path("/proc/cpuinfo")
_VNNI = {"avx_vnni", "avx512_vnni"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's
_TELLING = (
    "amx_int8",
    "amx_bf16",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "avx512f",
    "avx2",
    "i8mm",
    "asimddp",
    "bf16",
)


def default_threads() -> int:
    """Number of physical cores in this process's CPU affinity, at most the container's CPU quota; at least 1.

    Two threads of one core share its vector units, so more threads make matrix products slower, not faster.
    Where the system tells neither (not Linux), the number of logical CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in cpus}
    return max(1, min(len(cores), _quota(len(cpus))))


def cpu_name() -> str:
    """Name of the CPU and number of cores that this process may use; "unknown" where the system does not tell."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = (value for key, value in _entries() if key == "model name")
    return f"{next(names, platform.processor() or 'unknown')} ({cores} cores)"


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets of this CPU that decide how fast and how exact matrix products are, by Linux's names."""
    return tuple(name for name in _TELLING if name in _flags())


def int8_products_saturate() -> bool:
    """Tell whether pairs of uint8 x int8 products may overflow 16 bits: x86-64 without VNNI, or where no file tells.

    Such CPUs need the slower exact kernels (onnxruntime's documentation of quantization, section on data types).
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not _VNNI & _flags()


def has_fast_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 matrices in hardware (AVX512-BF16, AMX, Arm's BF16); else it is slow."""
    return bool(_BFLOAT16 & _flags())


def _flags() -> frozenset[str]:
    """Flags of the first CPU; empty where no file tells."""
    lists = (value for key, value in _entries() if key in ("flags", "Features"))  # x86, Arm
    return frozenset(next(lists, "").split())


def _entries() -> tuple[tuple[str, str], ...]:
    """Keys and values of the lines of /proc/cpuinfo; empty where it cannot be read."""
    return _read_entries(_CPU_INFO)


@cache
def _read_entries(path: Path) -> tuple[tuple[str, str], ...]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    pairs = (line.partition(":") for line in lines)
    return tuple((key.strip(), value.strip()) for key, _, value in pairs)


def _siblings(cpu: int) -> str:
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text()
    except OSError:
        return str(cpu)


def _quota(cpus: int) -> int:
    try:
        quota, period = _CPU_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else int(quota) // int(period)
