"""An aarch64 Python with this package's base dependencies, run by qemu's user mode; no root file system, no rights.

The machine's own sources of Debian packages and of wheels are used. Everything lies under one folder, about 300 MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "3.11"
# qemu of bookworm (7.2) crashes when onnxruntime is imported.
EMULATOR_SUITE, GUEST_SUITE = "trixie", "bookworm"
GUEST_PACKAGES = (
    f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libc6", "libstdc++6",
    "libgcc-s1", "libexpat1", "zlib1g", "libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class UnavailableError(Exception):
    """The packages cannot be had on this machine; says why."""


@dataclass(frozen=True)
class Emulator:
    """A prepared folder. `run` runs a Python program on an emulated CPU."""

    folder: Path

    def run(self, cpu: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Standard output of the program; CalledProcessError with what it printed if it fails."""
        python = self._wrapper(cpu)
        if not python.exists():
            raise ValueError(f"{cpu}: not one that was prepared")
        done = subprocess.run(
            [python, *arguments],
            env={
                "PYTHONPATH": f"{ROOT}:{self.folder / 'site'}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "Q3EDGE_EMULATED_PYTHON": str(python),
                **(environment or {}),
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise AssertionError(f"{cpu}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def write_wrapper(self, cpu: str) -> None:
        """Write the program that is Python on that CPU, which starts its child processes too.

        Before any thread starts a process: one that is forked meanwhile has the file open for writing, and until it
        has become another program the file is busy and cannot be started.
        """
        script = self._wrapper(cpu)
        root = self.folder / "root"
        qemu = f"{self.folder}/host/usr/bin/qemu-aarch64"
        script.write_text(f'#!/bin/sh\nexec "{qemu}" -cpu {cpu} -L "{root}" "{root}/usr/bin/python{PYTHON}" "$@"\n')
        script.chmod(0o755)

    def _wrapper(self, cpu: str) -> Path:
        return self.folder / f"python-{cpu}"


def prepare(folder: Path, cpus: Iterable[str]) -> Emulator:
    """Download and unpack what is missing to emulate `cpus`.

    UnavailableError: no Debian sources, another CPU, a download that failed.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise UnavailableError("the emulator is taken from Debian's packages for x86-64 Linux")
    if shutil.which("apt-get") is None or not KEYRING.exists():
        raise UnavailableError("needs Debian's apt-get and its keyring")
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack_packages(folder)
        _install_wheels(folder)
        ready.touch()
    emulator = Emulator(folder)
    for cpu in cpus:
        emulator.write_wrapper(cpu)
    return emulator


def _unpack_packages(folder: Path) -> None:
    apt = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(
        f"deb [signed-by={KEYRING} arch=amd64] {_mirror()} {EMULATOR_SUITE} main\n"
        f"deb [signed-by={KEYRING} arch=arm64] {_mirror()} {GUEST_SUITE} main\n"
    )
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "APT::Architecture": "amd64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
    }
    command = ["apt-get", *(f"-o{key}={value}" for key, value in settings.items())]
    packages, guest = apt / "packages", [f"{name}:arm64/{GUEST_SUITE}" for name in GUEST_PACKAGES]
    packages.mkdir()
    _do([*command, "update"], packages)
    _do([*command, "download", "qemu-user:amd64", *guest], packages)
    for package in packages.glob("*.deb"):
        if package.name.startswith("qemu-user"):
            archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
            (folder / "host").mkdir()
            with archive:
                tar: list[str | Path] = ["tar", "-x", "-C", folder / "host", "./usr/bin/qemu-aarch64"]
                subprocess.run(tar, stdin=archive.stdout, check=True)
        else:
            _do(["dpkg-deb", "-x", package, folder / "root"], packages)
    shutil.rmtree(apt)


def _mirror() -> str:
    """Address of Debian's packages from this machine's own configuration."""
    sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for path in sources:
        for line in path.read_text(errors="replace").splitlines():
            words = line.split()
            addresses = [word for word in words[1:] if "://" in word or word.startswith("mirror+file:")]
            if words and words[0] in ("deb", "URIs:") and addresses and addresses[0].rstrip("/").endswith("/debian"):
                return addresses[0]
    raise UnavailableError("no source of Debian packages is configured")


def _install_wheels(folder: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    options = ["--quiet", "--only-binary=:all:", f"--python-version={PYTHON}", *platforms]
    _do([sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", *needed], folder)


def _do(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
