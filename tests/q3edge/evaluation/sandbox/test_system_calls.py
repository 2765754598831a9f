"""The filter of system calls, run by a small interpreter of BPF: also for the architecture that this is not."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest

from q3edge.evaluation.sandbox.system_calls import _FREE, ARCHITECTURES, filter_program

ALLOWED, REFUSED, KILLED = 0x7FFF0000, 0x00050001, 0x80000000
PROCESS = 4711
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
OPENAT = {"x86_64": 257, "aarch64": 56}
PRLIMIT = {"x86_64": 302, "aarch64": 261}


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    data = struct.pack(
        "=IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *arguments, *[0] * (6 - len(arguments))
    )
    code = list(struct.iter_unpack("=HBBI", filter_program(machine, PROCESS)))
    place, value = 0, 0
    while True:
        kind, yes, no, constant = code[place]
        place += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", data, constant)
        elif kind == 0x54:
            value &= constant
        elif kind == 0x15:
            place += yes if value == constant else no
        else:
            assert kind == 0x06
            return int(constant)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_r2_reads_and_writes_are_allowed_and_processes_are_not(machine: str) -> None:
    read, fork, execve, socket = (0, 57, 59, 41) if machine == "x86_64" else (63, 220, 221, 198)
    assert verdict(machine, read) == ALLOWED
    assert [verdict(machine, number) for number in (fork, execve, socket, 435, 425, 9999)] == [REFUSED] * 6
    assert verdict(machine, read, architecture=0x40000003) == KILLED


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_r2_arguments_decide(machine: str) -> None:
    openat, prlimit = OPENAT[machine], PRLIMIT[machine]
    created = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    assert verdict(machine, openat, 0, 0, created) == ALLOWED
    assert verdict(machine, openat, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOWED
    assert verdict(machine, openat, 0, 0, os.O_RDONLY | os.O_TRUNC) == REFUSED
    assert verdict(machine, openat, 0, 0, 3 | os.O_TRUNC) == REFUSED
    assert verdict(machine, prlimit, 0, 7, 0, 1 << 40) == ALLOWED
    assert verdict(machine, prlimit, PROCESS, 7, 0, 1 << 40) == ALLOWED
    assert verdict(machine, prlimit, 1, 7, 0, 1 << 40) == REFUSED
    assert verdict(machine, prlimit, 0, 7, 1, 0) == REFUSED
    assert verdict(machine, prlimit, 0, 7, 1 << 40, 0) == REFUSED
    fcntl, kill = (72, 62) if machine == "x86_64" else (25, 129)
    assert [verdict(machine, fcntl, 1, command) for command in (1, 8, 10, 1024)] == [ALLOWED, REFUSED, REFUSED, REFUSED]
    assert [verdict(machine, kill, process) for process in (PROCESS, 1, 0, 2**32 - 1)] == [ALLOWED] + [REFUSED] * 3


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_r2_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    text = HEADERS[machine].read_text()
    pairs = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", text, re.MULTILINE)
    numbers = {name: int(number) for name, number in pairs}
    numbers |= {"newfstatat": numbers.get("fstatat", numbers.get("newfstatat", -1))}
    column = list(ARCHITECTURES).index(machine)
    for name, found in _FREE.items():
        assert found[column] == numbers.get(name), name
