"""What the decoder must know of this CPU: how many threads serve it best, and whether its int8 products are exact."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "quota period" in microseconds, or "max period"
_CPU_INFO = Path("/proc/cpuinfo")


def default_threads() -> int:
    """Physical cores in this process's CPU affinity, at most the container's CPU quota; at least 1.

    Two threads of one core share its vector units, so more threads make matrix products slower, not faster.
    Where the system tells neither (not Linux), the number of logical CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in cpus}
    return max(1, min(len(cores), _quota(len(cpus))))


def int8_products_saturate() -> bool:
    """Whether pairs of uint8 x int8 products may overflow 16 bits: x86-64 without VNNI, or where no file tells.

    onnxruntime's documentation of quantization, section on data types: such CPUs need the slower exact kernels.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return not re.search(r"\bavx(512)?_vnni\b", _CPU_INFO.read_text())
    except OSError:
        return True


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
