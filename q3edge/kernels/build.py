"""Build of the kernels, as part of the package's: the library of native/, each instruction set with flags of its own.

setuptools reads this file by its path (pyproject.toml), before anything is installed: it imports nothing of ours. The
extension is optional: where it cannot be built, the installation goes on, and onnxruntime's kernels are used.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path(__file__).resolve().parent / "native"
LIBRARY = "libq3edge_kernels.so"  # beside this file; also on macOS
_SEAL = 32  # bytes behind the library, which no loader reads: the sha256 of all before them
_COMMON = ("-std=c++17", "-O3", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden", "-ffp-contract=off")
# gcc 12 warns of its own header.
_QUIET = ("-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-unknown-warning-option")
_AVX2 = ("-mavx2", "-mfma", "-mf16c", *_QUIET)
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
# Machine -> file of an instruction set -> its flags. No other file is compiled with any.
_SETS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {
        "set_avx2.cpp": _AVX2,
        "set_avx_vnni.cpp": (*_AVX2, "-mavxvnni"),
        "set_avx512_vnni.cpp": _AVX512,
        "set_amx_int8.cpp": (*_AVX512, "-mamx-tile", "-mamx-int8"),
    },
    "aarch64": {
        "set_neon_dotprod.cpp": ("-march=armv8.2-a+dotprod",),
        "set_neon_i8mm.cpp": ("-march=armv8.2-a+dotprod+i8mm",),
    },
}
# What the library offers: nothing else, such as the standard library's templates, which any other library may have.
_EXPORTS: Mapping[str, tuple[str, ...]] = {
    "linux": (f"-Wl,--version-script={SOURCES / 'exports.map'}",),
    "darwin": ("-Wl,-exported_symbol,_RegisterCustomOps", "-Wl,-exported_symbol,_q3edge_*"),
}
_SAME = {"amd64": "x86_64", "arm64": "aarch64"}


def sources(machine: str) -> tuple[dict[Path, tuple[str, ...]], list[Path]]:
    """List the source files for a machine by its name (platform.machine()).

    Returns those of instruction sets, which a compiler may not know, with their flags, and the others.
    """
    name = machine.lower()
    sets = _SETS.get(_SAME.get(name, name), {})
    others = {path for path in SOURCES.glob("*.cpp") if not path.name.startswith("set_")}
    return {SOURCES / file: flags for file, flags in sets.items()}, sorted(others | {SOURCES / "set_portable.cpp"})


class BuildKernels(build_ext):
    """Command that compiles and links the kernels with a compiler that takes gcc's flags."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name of the library, which is none of Python's: it is loaded by onnxruntime."""
        return os.path.join(*fullname.split(".")[:-1], LIBRARY)

    def build_extension(self, ext: Extension) -> None:
        """Compile each file with its flags and link them; CompileError: not with this compiler, not on this machine."""
        if self.compiler.compiler_type != "unix":
            raise CompileError("the kernels are compiled by gcc or clang alone")
        sets, others = sources(platform.machine())
        objects: list[str] = []
        found: list[tuple[str, str | None]] = []
        for path, flags in sets.items():
            try:
                objects += self._compiled(path, ext, flags)
            except CompileError as error:
                self.warn(f"this compiler does not know the instructions of {path.name}: left out ({error})")
            else:
                found.append((f"Q3EDGE_{path.stem.upper()}", None))
        for path in others:
            objects += self._compiled(path, ext, macros=found)
        exports = list(_EXPORTS.get(sys.platform, ()))
        path_of_library = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(objects, path_of_library, extra_postargs=exports, target_lang="c++")
        _seal(Path(path_of_library))

    def _compiled(
        self, path: Path, ext: Extension, flags: Sequence[str] = (), macros: Sequence[tuple[str, str | None]] = ()
    ) -> list[str]:
        objects: list[str] = self.compiler.compile(
            [os.path.relpath(path)],
            output_dir=self.build_temp,
            macros=list(macros),
            extra_postargs=[*_COMMON, *flags],
            depends=ext.depends,
        )
        return objects

    def get_source_files(self) -> list[str]:
        """Files that a source distribution has to have."""
        return [os.path.relpath(path) for path in sorted(SOURCES.iterdir())]


def _seal(path: Path) -> None:
    """Put its sha256 behind a library, unless it is there: a linker leaves alone what is up to date."""
    content = path.read_bytes()
    if hashlib.sha256(content[:-_SEAL]).digest() != content[-_SEAL:]:
        path.write_bytes(content + hashlib.sha256(content).digest())
