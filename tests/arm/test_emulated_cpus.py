"""The embedded model's formats on emulated Arm CPUs: what they compute equals what x86 computes.

No dot products (Raspberry Pi 4), dot products, and matrix products of int8 (i8mm); no board was tried. `nox -s arm`
runs these alone; where the packages cannot be had they are skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

import q3edge
from tests.arm.emulator import ROOT, UnavailableError, prepare

pytestmark = [pytest.mark.arm, pytest.mark.slow, pytest.mark.timeout(3600)]
# CPU -> an instruction set that it has and one that it lacks, by Linux's names; its name.
CPUS = {
    "cortex-a72": ("asimd", "asimddp", "Cortex-A72"),
    "neoverse-n1": ("asimddp", "i8mm", "Neoverse-N1"),
    "neoverse-v1": ("i8mm", "sme", "Neoverse-V1"),
}
DEMO = str(files("q3edge.data") / "demo_model")
IN_BLOCKS = ("int8", "int4-mixed", "int4", "int4-symmetric", "int4-fast-int8-cache")
SETTINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "int4-symmetric": ("int4", {"symmetric": True}),
    "int4-fast-int8-cache": ("int4-fast", {"kv_cache": "int8"}),
}
FORMATS = ("float", "int8-dynamic", *IN_BLOCKS)
TOKENS = 40
EXACT = 1e-4  # largest difference of a logit where products are exact
KL = 2e-3  # nats, in the mean, where activations are rounded: what that rounding costs on x86, on either side


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    for name in FORMATS:
        if name == "float":
            q3edge.export(DEMO, folder / name, as_float=True)
        else:
            recipe, settings = SETTINGS.get(name, (name, {}))
            q3edge.build(DEMO, folder / name, recipe, method="rtn", **settings)
    return {name: folder / name for name in FORMATS}


@pytest.fixture(scope="module")
def results(artifacts: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of results of "x86" and of each emulated CPU."""
    try:
        emulator = prepare(ROOT / "build" / "arm", CPUS)
    except UnavailableError as error:
        pytest.skip(str(error))
    work = tmp_path_factory.mktemp("results")
    np.save(work / "ids.npy", _text())
    program = [str(ROOT / "tests" / "arm" / "probe.py"), str(work / "ids.npy")]
    folders = [str(path) for path in artifacts.values()]
    found = {}
    for name in ("x86", *CPUS):
        found[name] = work / name
        found[name].mkdir()
    subprocess.run([sys.executable, *program, str(found["x86"]), *folders], check=True, cwd=ROOT)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda cpu: emulator.run(cpu, [*program, str(found[cpu]), *folders]), CPUS))
    return found


def _text() -> NDArray[np.int64]:
    """The first tokens of the embedded model's calibration text, [1, TOKENS]."""
    lines = (Path(DEMO) / "calibration.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    text = " ".join(message["content"] for line in lines for message in json.loads(line)["messages"])
    return np.array([Tokenizer.from_file(str(Path(DEMO) / "tokenizer.json")).encode(text).ids[:TOKENS]], np.int64)


def _logits(folder: Path, name: str, kind: str) -> NDArray[np.float64]:
    with np.load(folder / f"{name}.npz") as arrays:
        return np.asarray(arrays[kind][0], np.float64)


def _mean_kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    log_p, log_q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (p, q))
    return float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())


def _facts(folder: Path) -> Any:
    return json.loads((folder / "answers.json").read_text())


@pytest.mark.parametrize("cpu", CPUS)
def test_each_profile_is_the_cpu_that_it_is_meant_to_be(results: Mapping[str, Path], cpu: str) -> None:
    has, lacks, name = CPUS[cpu]
    facts = _facts(results[cpu])
    assert has in ("asimd", *facts["instruction_sets"])
    assert lacks not in facts["instruction_sets"]
    assert name in facts["cpu"]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", FORMATS)
def test_logits_equal_those_of_x86(results: Mapping[str, Path], cpu: str, name: str) -> None:
    for kind in ("exact", "kernel"):
        here, there = _logits(results["x86"], name, kind), _logits(results[cpu], name, kind)
        if kind == "exact" and name not in ("int8-dynamic", "int4-fast-int8-cache"):
            assert np.abs(here - there).max() < EXACT
        else:
            assert _mean_kl(here, there) < KL


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_greedy_answer_equals_that_of_x86(results: Mapping[str, Path], cpu: str, name: str) -> None:
    answer = _facts(results[cpu])[name]["answer"]
    assert answer
    assert answer == _facts(results["x86"])[name]["answer"]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", FORMATS)
def test_a2_models_in_blocks_are_said_to_be_slow_where_there_are_no_dot_products(
    results: Mapping[str, Path], cpu: str, name: str
) -> None:
    """And there they are computed in float: the kernel's logits are the exact ones."""
    notes = _facts(results[cpu])[name]["notes"]
    slow = cpu == "cortex-a72" and name in IN_BLOCKS
    assert any("int8-dynamic ones are faster" in note for note in notes) is slow
    if slow:
        np.testing.assert_allclose(
            _logits(results[cpu], name, "kernel"), _logits(results[cpu], name, "exact"), atol=EXACT
        )


@pytest.mark.parametrize("cpu", ["neoverse-n1", "neoverse-v1"])
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_a3_rounding_activations_costs_what_it_costs_on_x86(results: Mapping[str, Path], cpu: str, name: str) -> None:
    moved = {
        where: _mean_kl(_logits(results[where], name, "exact"), _logits(results[where], name, "kernel"))
        for where in ("x86", cpu)
    }
    assert moved[cpu] < 1.5 * moved["x86"]
