"""Facts of this CPU: name, instruction sets, best number of threads, exact and fast products."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_CAPACITY = "/sys/devices/system/cpu/cpu{}/cpu_capacity"  # of 1024, where cores differ
_BIG_CORE = 0.5  # share of the largest capacity from which on a core is a big one
_BOARD = Path("/proc/device-tree/model")  # of boards, which most Arm devices are
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


# By implementer and part of /proc/cpuinfo, from Arm's Technical Reference Manuals (register MIDR_EL1).
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd48"): "Cortex-X2",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4d"): "Cortex-A715",
    ("0x41", "0xd4e"): "Cortex-X3",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd80"): "Cortex-A520",
    ("0x41", "0xd81"): "Cortex-A720",
    ("0x41", "0xd82"): "Cortex-X4",
}


def default_threads() -> int:
    """Number of big physical cores in this process's CPU affinity, at most the container's CPU quota; at least 1.

    Two threads of one core share its vector units, so more threads make matrix products slower, not faster; and a
    little core beside big ones (Arm's big.LITTLE) keeps them waiting, as products are shared out in equal parts.
    Where the system tells neither (not Linux), the number of logical CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    capacity = {cpu: _capacity(cpu) for cpu in cpus}
    cores = {_siblings(cpu) for cpu in cpus if capacity[cpu] >= _BIG_CORE * max(capacity.values())}
    return max(1, min(len(cores), _quota(len(cpus))))


def cpu_name() -> str:
    """Name of the CPU and number of cores that this process may use; "unknown" where the system does not tell.

    On Arm the board, where it has a name, and the kinds of its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = [value for key, value in _entries() if key == "model name"][:1]
    names = [*_board(), *(_arm_cores() or names)] or [platform.processor() or "unknown"]
    return f"{', '.join(names)} ({cores} cores)"


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets of this CPU that decide how fast and how exact matrix products are, by Linux's names."""
    return tuple(name for name in _TELLING if name in _flags())


def int8_products_saturate() -> bool:
    """Tell whether pairs of uint8 x int8 products may overflow 16 bits: x86-64 without VNNI, or where no file tells.

    Such CPUs need the slower exact kernels (onnxruntime's documentation of quantization, section on data types).
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not _VNNI & _flags()


def slow_block_products() -> str | None:
    """Sentence for people where block-quantized products are slow on this CPU, else None: Arm without dot products.

    There onnxruntime 1.32 has no kernel for int8 activations in blocks and computes these products in float32
    (its source, sqnbitgemm_kernel_neon; seen in emulation: results equal those with float activations).
    """
    if platform.machine().lower() not in ("aarch64", "arm64") or not _flags() or "asimddp" in _flags():
        return None
    return (
        "this CPU has no int8 dot products: int4 and int8 models are computed in float32 here, "
        "and int8-dynamic ones are faster"
    )


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


def _board() -> list[str]:
    try:
        return [_BOARD.read_text(encoding="utf-8", errors="replace").strip("\0\n ")]
    except OSError:
        return []


def _arm_cores() -> list[str]:
    """Kinds of cores of an Arm CPU, each once; by implementer and part where the kind is not known."""
    implementers = [value for key, value in _entries() if key == "CPU implementer"]
    parts = [value for key, value in _entries() if key == "CPU part"]
    kinds = dict.fromkeys(zip(implementers, parts))
    names = [_ARM_PARTS.get(kind, "Arm implementer {} part {}".format(*kind)) for kind in kinds]
    return [" + ".join(names)] if names else []


def _capacity(cpu: int) -> int:
    """Speed of a core among those of this machine; 0 for all where the system does not tell, as where all are alike."""
    try:
        return int(Path(_CAPACITY.format(cpu)).read_text())
    except (OSError, ValueError):
        return 0


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
