"""The kernels in programs of C++: with sanitizers, for every set that can run here, and on emulated Arm CPUs."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from q3edge.kernels.build import sources
from q3edge.machine.cpu import instruction_sets
from tests.helpers.native import SANITIZED, compile_checks, done, native_compiler

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PROGRAMS = {"check_products.cpp": "60", "check_attention.cpp": "60", "check_experts.cpp": "20"}  # random cases of each
COMPILER = native_compiler()
CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
CPU = set(instruction_sets())
# Where the CPU lacks AVX-VNNI's encoding of its instruction, AVX512's runs, with the same registers.
HAS_OTHER_ENCODING = "avx512_vnni" in CPU and "avx_vnni" not in CPU
INSTEAD = {"-mavxvnni": "-mavx512vnni -mavx512vl"} if HAS_OTHER_ENCODING else {}


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The programs for this machine, with sanitizers of addresses and of undefined behaviour."""
    if COMPILER is None:
        pytest.skip("there is no compiler")
    return compile_checks([*PROGRAMS], tmp_path_factory.mktemp("check"), SANITIZED, COMPILER, instead=INSTEAD)


def names() -> list[str]:
    """Of the sets for this machine, by their files' names."""
    sets, _ = sources(platform.machine())
    return ["portable", *(path.stem.removeprefix("set_").replace("_", "-") for path in sets)]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("source", PROGRAMS)
def test_random_shapes_are_right_and_no_byte_outside_is_touched(
    source: str, name: str, sanitized: dict[str, Path]
) -> None:
    found = done(sanitized[source]).split()
    if name not in found and not (name == "avx-vnni" and HAS_OTHER_ENCODING):
        pytest.skip(f"this CPU has no {name}")
    assert done(sanitized[source], name, "1", PROGRAMS[source]) == f"{name}: right\n"


@pytest.mark.skipif(CROSS is None or EMULATOR is None, reason="needs aarch64-linux-gnu-g++ and qemu-aarch64")
def test_arm_cpus_have_their_sets_and_results_are_right(tmp_path: Path) -> None:
    """Without dot products, with them, and with matrix products of int8."""
    assert CROSS is not None
    assert EMULATOR is not None
    programs = compile_checks([*PROGRAMS], tmp_path, ["-O1", "-static"], CROSS, machine="aarch64")
    expected = {
        "cortex-a72": ["portable"],
        "cortex-a76": ["neon-dotprod", "portable"],
        "max": ["neon-i8mm", "neon-dotprod", "portable"],
    }
    for cpu, sets in expected.items():
        for program in programs.values():
            emulated: list[str | Path] = [EMULATOR, "-cpu", cpu, program]
            assert done(*emulated).split() == sets, cpu
            for name in sets:
                assert done(*emulated, name, "1", "40") == f"{name}: right\n", cpu
