"""The sandbox against programs that escape, and that only pretend to be right."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from q3edge.errors import ResourceError
from q3edge.evaluation.sandbox import sandbox as sandbox_module
from q3edge.evaluation.sandbox.confinement import Kernel
from q3edge.evaluation.sandbox.sandbox import Outcome, Sandbox
from tests.helpers.programs import TEST, commands, doing, judged, kernel_or_skip

CHILD = """\
import _posixsubprocess, os
read, write = os.pipe()
_posixsubprocess.fork_exec(
    (b"touch", {target!r}), (b"/bin/touch", b"/usr/bin/touch"), True, (write,), None, None, -1, -1, -1, -1, -1, -1,
    read, write, False, True, -1, None, None, None, -1, None, True,
)
"""
CALL = "import ctypes\nlibrary = ctypes.CDLL(None, use_errno=True)\nassert library."
# Each ends with an error where it is contained: OUT is a folder of the user with the file `kept`, SELF this process.
ESCAPES = {
    "write": "open('OUT/new', 'w')",
    "append": "open('OUT/kept', 'a').write('x')",
    "read": "open('OUT/kept').read()",
    "list": "import os\nos.listdir('OUT')",
    "empty-while-reading": "import os\nos.open('OUT/kept', os.O_RDONLY | os.O_TRUNC)",
    "truncate": "import os\nos.truncate('OUT/kept', 0)",
    "sqlite": "import sqlite3\nsqlite3.connect('OUT/new').execute('create table a (b)')",
    "mkdir": "import os\nos.mkdir('OUT/new')",
    "rmdir": "import os\nos.rmdir('OUT/inner')",
    "mknod": "import os\nos.mknod('OUT/new')",
    "mkfifo": "import os\nos.mkfifo('OUT/new')",
    "utime": "import os\nos.utime('OUT/kept', (0, 0))",
    "chmod": "import os\nos.chmod('OUT/kept', 0)",
    "chown": "import os\nos.chown('OUT/kept', 1, 1)",
    "xattr": "import os\nos.setxattr('OUT/kept', 'user.a', b'x')",
    "remove": "import os\nos.remove('OUT/kept')",
    "rename": "import os\nos.rename('OUT/kept', 'kept')",
    "link": "import os\nos.link('OUT/kept', 'kept')\nopen('kept', 'a').write('x')",
    "symlink": "import os\nos.symlink('OUT/kept', 'kept')\nopen('kept', 'a').write('x')",
    "dir-fd": "import os\nhere = os.open('OUT', os.O_PATH)\nos.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=here)",
    "chdir": "import os\nos.chdir('OUT')\nopen('new', 'w')",
    "shared-memory": "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('NAME', True, 8)",
    "environment": "assert b'SECRET' in open('/proc/SELF/environ', 'rb').read()",
    "memory": "open('/proc/SELF/mem', 'rb')",
    "own-processes": "open('/proc/self/status')",
    "fork": "import os\nos.fork() or os._exit(0)",
    "system": "import os\nassert os.system('touch OUT/new') == 0",
    "subprocess": "import subprocess\nsubprocess.run(['touch', 'OUT/new'], check=True)",
    "fork-exec": CHILD.replace("{target!r}", "b'OUT/new'"),
    "exec": "import os\nos.execv('/bin/touch', ['touch', 'OUT/new'])",
    "spawn": "import os\nassert os.posix_spawn('/bin/touch', ['touch', 'OUT/new'], {})",
    "signal": "import os\nos.kill(SELF, 0)",
    "signal-by-handle": "import os\nos.pidfd_open(SELF)",
    "signal-by-file": "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, SELF)",
    "limits": "import resource\nresource.prlimit(SELF, resource.RLIMIT_NOFILE, (9, 9))",
    "own-limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
    "priority": "import os\nos.setpriority(os.PRIO_PROCESS, SELF, 19)",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', PORT))",
    "local-socket": "import socket\nsocket.socketpair()",
    "become": "import os\nos.setuid(1)",
    "ptrace": CALL + "ptrace(16, SELF, 0, 0) == 0",
    "mount": CALL + "mount(b'none', b'.', b'tmpfs', 0, 0) == 0",
    "unshare": CALL + "unshare(0x10000000) == 0",
    "bpf": CALL + "syscall(321, 0, 0, 0) > 0",
    "io-uring": CALL + "syscall(425, 1, bytes(120)) > 0",
    "other-table": CALL + "syscall(0x40000000 + 41, 1, 1, 0) > 0",
    "terminal": "open('/dev/tty', 'w')",
}


def state(folder: Path) -> list[tuple[str, bytes, tuple[int, ...]]]:
    """Everything in a folder, with its content and status."""
    found: list[tuple[str, bytes, tuple[int, ...]]] = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found.append((path.name, content, (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_nlink)))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder that programs want to change, and a port that they want to reach."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "inner").mkdir()
    (folder / "kept").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield folder, server.getsockname()[1]


@pytest.mark.parametrize("name", ESCAPES)
def test_r2_no_escape_succeeds(
    sandbox: Sandbox, world: tuple[Path, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel, so also where a program calls what Python's own checks never see; as root too."""
    if name == "fork-exec" and sys.version_info[:2] != (3, 11):
        pytest.skip("the arguments are 3.11's")
    monkeypatch.setenv("SECRET_TOKEN", "SECRET")
    folder, port = world
    names = {"OUT": str(folder), "SELF": str(os.getpid()), "PORT": str(port), "NAME": f"q3edge-{os.getpid()}"}
    code = ESCAPES[name]
    for word, value in names.items():
        code = code.replace(word, value)
    before = state(folder)
    # A program that escapes is right; one whose attempt fails is wrong, with the attempt's error as the reason.
    outcome = judged(sandbox, doing(code))
    assert outcome.passed is False
    assert any(
        word in outcome.reason
        for word in ("PermissionError", "Errno", "unable to open", "not allowed", "AssertionError")
    )
    assert state(folder) == before
    assert not Path(f"/dev/shm/{names['NAME']}").exists()


@pytest.mark.parametrize("name", ["empty-while-reading", "truncate", "write", "rename"])
def test_r2_the_first_version_of_landlock_is_enough(world: tuple[Path, int], name: str) -> None:
    kernel = kernel_or_skip()
    folder, _ = world
    before = state(folder)
    oldest = Sandbox(Kernel(kernel.machine, 1))
    assert judged(oldest, doing(ESCAPES[name].replace("OUT", str(folder)))).passed is False
    assert state(folder) == before


def test_r2_what_python_itself_reads_is_not_emptied_by_opening(tmp_path: Path) -> None:
    """Landlock's first version allows it: only the filter of system calls refuses."""
    oldest = Sandbox(Kernel(kernel_or_skip().machine, 1))
    code = "import os\nos.open(os.__file__, os.O_RDONLY | os.O_TRUNC)"
    size = os.stat(os.__file__).st_size
    if not os.access(os.__file__, os.W_OK):
        pytest.skip("Python's own files are safe from this user")
    copy = shutil.copy2(os.__file__, tmp_path / "os.py")
    try:
        assert "PermissionError" in judged(oldest, doing(code)).reason
        assert os.stat(os.__file__).st_size == size
    finally:
        if os.stat(os.__file__).st_size != size:
            shutil.copy2(copy, os.__file__)


FORGERIES = {
    "equal to everything": "class Any:\n    __eq__ = lambda *_: True\ndef f(a): return Any()",
    "a number that is equal to everything": "class Any(int):\n    __eq__ = lambda *_: True\ndef f(a): return Any(7)",
    "a list that is equal to everything": "class Any(list):\n    __eq__ = lambda *_: True\ndef f(a): return Any()",
    "exit": doing("import os\nos._exit(0)").replace("a + 1", "0"),
    "words in all frames": (
        "def f(a):\n    import gc, os, sys\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
        "            for n in range(20):\n"
        "                try: os.write(n, str(value).encode() + b'\\nready\\npassed ')\n"
        "                except OSError: pass\n"
        "        frame = frame.f_back\n"
    ),
    "written to every file": (
        "import os\nfor n in range(64):\n    for text in (b'passed ', b'ready\\npassed '):\n"
        "        try: os.lseek(n, 0, 0)\n        except OSError: pass\n"
        "        try: os.write(n, text)\n        except OSError: pass\ndef f(a): return 0"
    ),
    "assert does nothing": "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(a): return 0",
    "check replaced": "import sys, builtins\nbuiltins.check = lambda f: None\ndef check(f): pass\ndef f(a): return 0",
    "messages of its own": (
        "import os\ndef f(a):\n    for n in range(3, 64):\n"
        '        try: os.write(n, b\'{"result": null, "values": []}\\n\')\n        except OSError: pass\n'
        "    return 0\n"
    ),
    "nonsense": "import os\nfor n in range(3, 64):\n    try: os.write(n, b'\\xff[[[{\\n')\n    except OSError: pass\n"
    "def f(a): return 2",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_r2_a_success_cannot_be_forged(sandbox: Sandbox, name: str) -> None:
    assert judged(sandbox, FORGERIES[name]).passed is False


def test_r2_the_program_does_not_get_the_test(sandbox: Sandbox) -> None:
    look = doing(
        "import gc\ntexts = [t for o in gc.get_objects() if isinstance(o, dict) for t in map(str, o.values())]"
    )
    marked = "def check(f):\n    assert f(1) == 2  # no-program-knows-me\n"
    found = look.replace("    return", "    assert not any('no-program-' 'knows-me' in t for t in texts)\n    return")
    assert judged(sandbox, found, marked).passed


def test_r2_the_environment_is_empty(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "1")
    code = "import os\nleft = set(os.environ) - {'TMPDIR', 'LD_LIBRARY_PATH', 'LC_CTYPE', 'ORT_DISABLE_TELEMETRY'}"
    code += "\nassert all(name.endswith('_NUM_THREADS') for name in left), left"
    assert judged(sandbox, doing(code)) == Outcome(True, "")


@pytest.mark.parametrize(
    ("why", "message"),
    [("this is Darwin", "this is Darwin"), ("Landlock is missing in this kernel or container", "Landlock is missing")],
)
def test_r2_without_the_means_it_is_refused(why: str, message: str) -> None:
    def find() -> Kernel:
        raise ResourceError(why)

    with pytest.raises(ResourceError, match=message) as raised:
        Sandbox.open(find)
    assert "leave out --allow-code" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_r2_what_opening_tries_succeeds_without_a_sandbox(tmp_path: Path) -> None:
    """So a kernel that takes every rule and keeps none is refused."""
    (tmp_path / "file").touch()
    call = f"{sandbox_module._ESCAPES}print(escaped({str(tmp_path / 'file')!r}, {str(tmp_path / 'new')!r}))"
    found = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True).stdout
    assert found == "['read a file', 'write a file', 'start a process', 'open a socket']\n"


def test_r2_what_the_kernel_does_not_take_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"cannot be contained here .*cannot be confined.*leave out --allow-code"):
        Sandbox.open(lambda: Kernel(kernel_or_skip().machine, -1))


def test_no_process_outlives_the_judgement(sandbox: Sandbox) -> None:
    asleep = doing("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(100)")
    assert judged(sandbox, asleep, wall_seconds=1).passed is False
    own = f'"parent": {os.getpid()}'
    deadline = time.monotonic() + 10
    while (found := [line for line in commands() if own in line]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not found


KILLED = """
from q3edge.evaluation.sandbox.sandbox import Sandbox
sandbox = Sandbox.open()
print("opened", flush=True)
sandbox.judge({source!r}, test={test!r}, entry_point="f", wall_seconds=100)
"""


def test_r2_a_killed_parent_takes_its_processes_with_it(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next program removes what it left."""
    source = doing("import time\nopen('here', 'w')\ntime.sleep(100)")
    command = [sys.executable, "-c", KILLED.format(source=source, test=TEST)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        while not list(tmp_path.glob("*/program/here")):
            assert parent.poll() is None
            time.sleep(0.02)
        own = f'"parent": {parent.pid}'
        assert any(own in line for line in commands())
        parent.kill()
    deadline = time.monotonic() + 10
    while any(own in line for line in commands()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(own in line for line in commands())
    assert list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert judged(sandbox, "def f(a): return 2").passed
    assert not list(tmp_path.iterdir())
