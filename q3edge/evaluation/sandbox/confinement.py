"""What a process gives up before it runs a program: files by Landlock, system calls by seccomp, rights and resources.

Landlock: docs.kernel.org/userspace-api/landlock.html; seccomp: docs.kernel.org/userspace-api/seccomp_filter.html.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from q3edge.errors import ResourceError
from q3edge.evaluation.sandbox.system_calls import ARCHITECTURES, filter_program

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITY_VERSION = 0x20080522

_WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 1, 1 << 2, 1 << 3
_CHANGE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14  # remove, make (no devices), move, truncate
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many each version of Landlock knows
_READABLE = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache",
    "/etc/localtime", "/dev/urandom",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kernel:
    """What contains programs here. machine: as `platform.machine` names it; landlock: version of its interface."""

    machine: str
    landlock: int


@dataclass(frozen=True, slots=True)
class Limits:
    """CPU seconds, bytes of address space, bytes of one file, and open files."""

    seconds: int
    memory: int
    file_bytes: int
    files: int


def find_kernel() -> Kernel:
    """Ask the kernel for what contains programs; ResourceError: it lacks something, named."""
    machine = platform.machine()
    if sys.platform != "linux":
        raise ResourceError(f"this is {platform.system()}")
    if machine not in ARCHITECTURES or sys.maxsize < 2**32:
        raise ResourceError(f"there is no list of system calls for {machine} with {8 * struct.calcsize('P')} bits")
    try:
        version = _call(_CREATE_RULESET, None, 0, 1)
    except OSError as error:
        why = "switched off" if error.errno == errno.EOPNOTSUPP else "missing"
        raise ResourceError(f"Landlock is {why} in this kernel or container") from None
    try:
        _call(_SECCOMP[machine], 2, 0, ctypes.byref(ctypes.c_uint32(0x00050000)))
    except OSError:
        raise ResourceError("seccomp filters are missing in this kernel or container") from None
    return Kernel(machine, version)


def confine(kernel: Kernel, folder: str, limits: Limits, parent: int) -> None:
    """Confine this process, which must have one thread, to `folder` for good. OSError: the kernel refuses.

    It ends with the process `parent`. It may write in the folder and to /dev/null, and read these, Python and the
    system's libraries; it starts no process or thread, has no network, and as root it has no capabilities.
    """
    import resource  # not on Windows

    for kind, value in (
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    nothing, header = (ctypes.c_uint32 * 6)(), struct.pack("=II", _CAPABILITY_VERSION, 0)
    _call(_CAPSET[kernel.machine], header, ctypes.byref(nothing))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "the process that started the sandbox has ended")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _restrict_files(kernel.landlock, folder)
    _restrict_calls(kernel.machine)


def _restrict_files(version: int, folder: str) -> None:
    handled = (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1
    ruleset = _call(_CREATE_RULESET, struct.pack("=Q", handled), 8, 0)
    try:
        own = _READ_FILE | _READ_FOLDER | _WRITE_FILE | _CHANGE
        rules = [(folder, own), ("/dev/null", _READ_FILE | _WRITE_FILE)]
        rules += [(path, _READ_FILE | _READ_FOLDER) for path in dict.fromkeys(_readable())]
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this machine
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _READ_FILE | _WRITE_FILE
        _call(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, beneath), 0)
    finally:
        os.close(beneath)


def _readable() -> Iterator[str]:
    """Folders and files of Python and of the system's libraries; not what a project adds to the path of modules."""
    yield from _READABLE
    for entry in sys.path:
        if _is_inside(entry, (sys.prefix, sys.base_prefix)):
            yield entry
    for line in Path("/proc/self/maps").read_text().splitlines():
        if ".so" in (name := line.partition("/")[2]):
            yield os.path.dirname(f"/{name}")


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    real = os.path.realpath(path)
    return any(real.startswith(os.path.realpath(folder).rstrip(os.sep) + os.sep) for folder in folders)


def _restrict_calls(machine: str) -> None:
    class Program(ctypes.Structure):
        """`struct sock_fprog` of linux/filter.h."""

        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    code = filter_program(machine, os.getpid())
    _call(_SECCOMP[machine], 1, 0, ctypes.byref(Program(len(code) // 8, code)))


def _call(number: int, *arguments: object) -> int:
    """Make a system call; OSError: it failed."""
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    whole = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = library.syscall(ctypes.c_long(number), *whole)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
