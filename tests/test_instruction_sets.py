"""The numeric tests under other instruction sets than this CPU's best: what they ask for must hold on all of them.

docs/testing.md says which libraries heed these variables and what is left uncovered.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from q3edge.machine.cpu import instruction_sets

ROOT = Path(__file__).resolve().parent.parent
NUMERIC_TESTS = [
    "tests/calibration/rounding",
    "tests/calibration/layers/test_layer.py",
    "tests/calibration/layers/test_input_group.py",
    "tests/q3edge/reference/test_model.py",
]
# Runs pytest, but only where torch has heeded its variable.
PROGRAM = """
import sys, pytest, torch
found = torch.backends.cpu.get_cpu_capability()
if found.lower() != sys.argv[1]:
    sys.exit(f"torch runs with {found}")
sys.exit(pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", *sys.argv[2:]]))
"""
# ATEN_CPU_CAPABILITY -> the flag that the CPU must have, and what the other libraries call the same.
PROFILES: Mapping[str, tuple[str | None, Mapping[str, str]]] = {
    "default": (
        None,
        {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"},
    ),
    "avx2": (
        "avx2",
        {"MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
    ),
    "avx512": (
        "avx512f",
        {"MKL_CBWR": "AVX512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OPENBLAS_CORETYPE": "SkylakeX"},
    ),
}


def numpy_without(profile: str) -> str:
    """NPY_DISABLE_CPU_FEATURES: what numpy has found beyond the profile."""
    found: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    beyond = {"default": ("",), "avx2": ("AVX512", "X86_V4"), "avx512": ()}[profile]
    return " ".join(name for name in found if name.startswith(beyond))


@pytest.fixture(scope="module")
def children() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process for each profile that this CPU has, all started at once."""
    found = {}
    for profile, (needed, settings) in PROFILES.items():
        if needed is None or needed in instruction_sets():
            environment = {"ATEN_CPU_CAPABILITY": profile, "NPY_DISABLE_CPU_FEATURES": numpy_without(profile)}
            found[profile] = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, profile, *NUMERIC_TESTS],
                cwd=ROOT,
                env={**os.environ, **settings, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
    yield found
    for process in found.values():
        with process:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a minute on two quiet cores
@pytest.mark.parametrize("profile", PROFILES)
def test_numeric_tests_pass_with(profile: str, children: dict[str, subprocess.Popen[str]]) -> None:
    if profile not in children:
        pytest.skip(f"this CPU has no {PROFILES[profile][0]}")
    output, _ = children[profile].communicate()
    assert children[profile].returncode == 0, output
