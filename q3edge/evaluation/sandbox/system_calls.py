"""System calls that a contained program may make, and the seccomp filter that refuses all others.

Numbers: Linux's asm/unistd_64.h for x86_64 and asm-generic/unistd.h for aarch64. Filters are classic BPF over
`struct seccomp_data` (linux/seccomp.h): number, architecture, instruction pointer, six arguments of 64 bits.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h, by platform.machine()

# Name: numbers on x86_64 and aarch64; None where the architecture lacks the call. None of these reaches beyond the
# process but by opened files, which Landlock decides on.
_FREE: Mapping[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "access": (21, None), "pipe": (22, None),
    "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23),
    "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, None),
    "setitimer": (38, 103), "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "flock": (73, 32),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "link": (86, None),
    "unlink": (87, None), "symlink": (88, None), "readlink": (89, None), "umask": (95, 166), "gettimeofday": (96, 169),
    "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176),
    "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173), "getgroups": (115, 158),
    "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "time": (201, None), "gettid": (186, 178),
    "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94),
    "epoll_wait": (232, None), "epoll_ctl": (233, 21), "mkdirat": (258, 34), "newfstatat": (262, 79),
    "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36), "readlinkat": (267, 78),
    "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73), "epoll_pwait": (281, 22),
    "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59), "renameat2": (316, 276), "getrandom": (318, 278),
    "statx": (332, 291), "rseq": (334, 293), "faccessat2": (439, 439),
}  # fmt: skip

_OPEN_FLAGS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_EMPTYING = 0o1000  # O_TRUNC, on both architectures
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_ALU|AND|K, BPF_RET|K


@dataclass(frozen=True, slots=True)
class _Condition:
    """Half of an argument, 0 to 11 (the lower half of the first is 0), that must be one of `values` under `mask`."""

    half: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


def filter_program(machine: str, process: int) -> bytes:
    """Assemble the filter for the process with this id as an array of `struct sock_filter`; KeyError: unknown machine.

    Calls of another architecture's table end the process; any other call that is not listed fails with EPERM.
    """
    column = list(ARCHITECTURES).index(machine)
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for numbers in _FREE.values():
        if (number := numbers[column]) is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for numbers, conditions in _conditional(process):
        if (number := numbers[column]) is not None:
            block = _block(conditions)
            code += [(_EQUAL, 0, len(block), number), *block]
    code.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _conditional(process: int) -> list[tuple[tuple[int | None, int | None], tuple[_Condition, ...]]]:
    """Numbers and conditions of the calls that are harmless with some arguments only."""
    # Landlock before version 3 does not see that opening for reading may empty a file.
    mask, emptied = _OPEN_FLAGS | _EMPTYING, (os.O_WRONLY | _EMPTYING, os.O_RDWR | _EMPTYING)
    flags = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, *emptied)
    itself = _Condition(0, (process,))
    # Not F_SETOWN and F_SETSIG, which send signals to others, nor leases, notices and sizes of pipes.
    file_commands = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)
    device_commands = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIO(N)CLEX
    return [
        ((2, None), (_Condition(2, flags, mask),)),  # open
        ((257, 56), (_Condition(4, flags, mask),)),  # openat
        ((72, 25), (_Condition(2, file_commands),)),  # fcntl
        ((16, 29), (_Condition(2, device_commands),)),  # ioctl
        ((62, 129), (itself,)),  # kill
        ((234, 131), (itself,)),  # tgkill
        # prlimit64 that only reads: of this process, without new limits.
        ((302, 261), (_Condition(0, (0, process)), _Condition(4, (0,)), _Condition(5, (0,)))),
    ]


def _block(conditions: tuple[_Condition, ...]) -> list[tuple[int, int, int, int]]:
    """Instructions that allow the call if all conditions hold and refuse it otherwise."""
    code: list[tuple[int, int, int, int]] = []
    for condition in conditions:
        code += [(_LOAD, 0, 0, 16 + 4 * condition.half), (_AND, 0, 0, condition.mask)]
        left = len(condition.values)
        code += [(_EQUAL, left - place, 0, value) for place, value in enumerate(condition.values)]
        code.append((_RETURN, 0, 0, _REFUSE))
    return [*code, (_RETURN, 0, 0, _ALLOW)]
