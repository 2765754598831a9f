"""Programs in C++ that check the kernels: compiled with the sources, for this machine or for another."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from q3edge.kernels.build import SOURCES, sources

CHECKS = Path(__file__).resolve().parents[1] / "q3edge" / "kernels"  # of the programs
SANITIZED = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def native_compiler() -> str | None:
    """The compiler of C++ for this machine."""
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def compile_checks(
    names: Sequence[str],
    folder: Path,
    options: Sequence[str],
    compiler: str,
    machine: str | None = None,
    instead: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Compile check programs into `folder` with the kernels of every set for `machine` (of this one).

    instead: replaces options by which a set is compiled. AssertionError: it cannot be compiled.
    """
    sets, others = sources(machine or platform.machine())
    flags = {path: " ".join((instead or {}).get(flag, flag) for flag in found).split() for path, found in sets.items()}
    macros = tuple(f"-DQ3EDGE_{path.stem.upper()}" for path in sets)
    files = {**flags, **dict.fromkeys([*others, *(CHECKS / name for name in names)], macros)}
    command = [compiler, "-std=c++17", "-ffp-contract=off", f"-I{SOURCES}", *options]

    def compiled(item: tuple[Path, Sequence[str]]) -> Path:
        path, extra = item
        done(*command, *extra, "-c", path, "-o", folder / f"{path.stem}.o")
        return folder / f"{path.stem}.o"

    with ThreadPoolExecutor(2) as pool:
        objects = dict(zip(files, pool.map(compiled, files.items()), strict=True))
    common = [objects[path] for path in (*flags, *others)]
    programs = {name: folder / Path(name).stem for name in names}
    for name, program in programs.items():
        done(*command, *common, objects[CHECKS / name], "-o", program)
    return programs


def done(*command: str | Path) -> str:
    """Run a command; its standard output. AssertionError: it failed, with what it said."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout
