"""Building the kernels: without a compiler, with an old one, and what the library and its objects hold."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from q3edge.kernels.library import Library, MatrixShape
from tests.helpers.native import done, native_compiler
from tests.helpers.packed import RandomMatrix
from tests.helpers.wheels import ROOT, build_wheel

pytest.importorskip("setuptools", "77", reason="this setuptools cannot build the package")
COMPILER = native_compiler()
X86 = platform.machine().lower() in ("x86_64", "amd64")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
needs_compiler = pytest.mark.skipif(COMPILER is None or os.name != "posix", reason="needs gcc or clang")
# Flags that an older compiler may lack -> the sets that are then left out.
NEW_FLAGS = (
    {"-mavxvnni": {"avx-vnni"}, "-mavx512vnni": {"avx512-vnni", "amx-int8"}, "-mamx-int8": {"amx-int8"}}
    if X86
    else {"-march=armv8.2-a+dotprod+i8mm": {"neon-i8mm"}, "-march=armv8.2-a+dotprod": {"neon-dotprod"}}
)


def build(folder: Path, **environment: str) -> Path:
    """Build as the package's installation does; objects go into `folder`/temp."""
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "build_ext"]
    places = ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    variables = {**os.environ, **environment}
    result = subprocess.run([*command, *places], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (library,) = (folder / "lib").rglob("*.so")
    return library


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a build: lib with the library, temp with its objects."""
    folder = tmp_path_factory.mktemp("build")
    build(folder)
    return folder


def test_without_a_compiler_the_package_is_installed_without_the_library(tmp_path: Path) -> None:
    nothing = tmp_path / "bin"
    nothing.mkdir()
    fails = shutil.which("false")
    assert fails is not None
    wheel = zipfile.ZipFile(build_wheel(tmp_path, {"PATH": str(nothing), "CC": fails, "CXX": fails}))
    assert not [name for name in wheel.namelist() if name.endswith(".so")]
    wheel.extractall(tmp_path / "site")
    code = "from q3edge.kernels import library; print(library.__file__, library.library())"
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(tmp_path / "site" / "q3edge" / "kernels" / "library.py"), "None"]


@needs_compiler
@pytest.mark.parametrize("flag", NEW_FLAGS)
def test_what_a_compiler_does_not_know_is_left_out_and_the_rest_works(flag: str, tmp_path: Path, built: Path) -> None:
    script = tmp_path / "c++"
    refuses = f'for word; do if [ "$word" = "{flag}" ]; then echo "unknown option $word" >&2; exit 1; fi; done'
    script.write_text(f'#!/bin/sh\n{refuses}\nexec "{COMPILER}" "$@" -O0\n')
    script.chmod(0o755)
    library = Library(build(tmp_path, CC=str(script), CXX=str(script)))
    (complete,) = (built / "lib").rglob("*.so")
    usual = Library(complete).instruction_sets
    assert library.instruction_sets == tuple(name for name in usual if name not in NEW_FLAGS[flag])
    left_out = {f"set_{name.replace('-', '_')}.o" for name in NEW_FLAGS[flag]}
    assert left_out.isdisjoint(path.name for path in tmp_path.rglob("*.o"))

    rng = np.random.default_rng(0)
    shape = MatrixShape(rows=20, width=64, group=32, bits=4, symmetric=True, float32_scales=False)
    matrix, x = RandomMatrix.of(shape, rng), rng.normal(size=(3, 64)).astype(np.float32)
    results = [library.multiply(name, shape, matrix.packed(library), x) for name in library.instruction_sets]
    for result in results:
        np.testing.assert_allclose(result, results[-1], rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="needs nm")
def test_the_library_offers_its_own_functions_alone(built: Path) -> None:
    (library,) = (built / "lib").rglob("*.so")
    names = [line.split()[-1] for line in done("nm", "-D", "--defined-only", library).splitlines()]
    assert "RegisterCustomOps" in names
    assert [name for name in names if name != "RegisterCustomOps" and not name.startswith("q3edge_")] == []


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="needs nm")
def test_a_sets_object_defines_nothing_that_another_might_use(built: Path) -> None:
    """An inline function of a header, compiled for a set, could be the copy that the linker keeps for everybody."""
    objects = [path for path in built.rglob("set_*.o") if path.stem != "set_portable"]
    assert objects
    for path in objects:
        space = path.stem.removeprefix("set_")
        lines = done("nm", "-C", "--defined-only", "--extern-only", path).splitlines()
        names = [line.split(maxsplit=2)[2] for line in lines]
        assert f"q3edge::kernels_{space}()" in names
        others = [name for name in names if name != f"q3edge::kernels_{space}()" and f"q3edge::{space}::" not in name]
        assert others == [], path.name


@needs_compiler
@pytest.mark.skipif(not X86 or shutil.which("objdump") is None, reason="needs objdump, on x86-64")
def test_only_sets_use_instructions_that_not_every_cpu_has(built: Path) -> None:
    """Beyond SSE2 names begin with v, which no other instruction in a library does."""
    objects = list(built.rglob("*.o"))
    using = {
        path.stem
        for path in objects
        if re.search(r"\t(v[a-z0-9]+ |[a-z0-9]+ .*%[yz]mm)", done("objdump", "-d", "--no-show-raw-insn", path))
    }
    assert using == {path.stem for path in objects if path.stem.startswith("set_")} - {"set_portable"}
