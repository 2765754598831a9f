"""Codes that are chosen for GGUF: they go there whole, and a budget is kept to by the file, to the byte."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.architecture.tensors import EMBEDDING
from q3edge.artifact import Manifest
from q3edge.calibration.layers.scheme_groups import SchemeGroup
from q3edge.checkpoint import open_float_model, open_quantized_model
from q3edge.errors import UsageError
from q3edge.library.making import export, quantize
from q3edge.pipeline.quantize.plans import check_budget, make_plans, widths_of
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.pipeline.quantize.targets import GgufTarget
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import random_tokens
from tests.helpers.gguf_models import read_gguf_model
from tests.helpers.models import MOE, write_checkpoint
from tests.helpers.runtime import write_tokenizer

DENSE, MIXTURE = (Path(str(files("q3edge.data") / name)) for name in ("demo_model", "demo_moe"))


def stated_costs(target: GgufTarget, seed: int) -> dict[SchemeGroup, list[float]]:
    """Nats by scheme group and width as they might be measured."""
    rng = np.random.default_rng(seed)

    def cost(scheme: Scheme | None) -> float:
        return 0.0 if scheme is None else float(rng.lognormal(0, 1) * 4.0**-scheme.bits)

    return {group: [cost(scheme) for scheme in widths] for group, widths in widths_of(target).items()}


def written(model: Path, recipe: Recipe, codes: Path) -> int:
    """Bytes of model.gguf, made of weights that are rounded to nearest by the recipe."""
    quantize_checkpoint(str(model), codes, replace(recipe, method="rtn"), overwrite=True)
    export(codes, codes.parent / "gguf", to="gguf", overwrite=True)
    return (codes.parent / "gguf/model.gguf").stat().st_size


@pytest.mark.parametrize(("model", "budget"), [(DENSE, 1_900_000), (DENSE, 2_300_001), (MIXTURE, 2_600_000)])
def test_every_plan_is_as_large_as_a_file_as_it_says(model: Path, budget: int, tmp_path: Path) -> None:
    with open_float_model(model) as checkpoint:
        target = GgufTarget(checkpoint, tmp_path / "codes")
        check_budget(target, budget)
        plans = make_plans(target, stated_costs(target, 0), budget)
    assert len({*plans[-1].schemes.values()}) > 1
    for plan in plans:
        assert written(model, plan.recipe, tmp_path / "codes") == plan.size
        assert plan.size <= budget
        assert plan.name == "uniform" or plan.size > 0.98 * budget


def test_the_smallest_file_is_the_smallest_budget(tmp_path: Path) -> None:
    least = written(DENSE, Recipe.for_format("int4-fast", 32, symmetric=True), tmp_path / "codes")
    with open_float_model(DENSE) as checkpoint:
        target = GgufTarget(checkpoint, tmp_path / "codes")
        check_budget(target, least)
        with pytest.raises(UsageError, match="the smallest that this model can be is"):
            check_budget(target, least - 1)


def test_a_budget_that_the_float_file_fits_is_refused(tmp_path: Path) -> None:
    export(DENSE, tmp_path / "codes", as_float=True, to="gguf")
    floats = (tmp_path / "codes/model.gguf").stat().st_size + len("codes") - len(DENSE.name)  # the name is in it
    with open_float_model(DENSE) as checkpoint:
        target = GgufTarget(checkpoint, tmp_path / "codes")
        with pytest.raises(UsageError, match=r"the whole float model .*`q3edge export --format float --to gguf`"):
            check_budget(target, floats + 32)
        check_budget(target, floats - 33)


def test_matrices_that_32_does_not_divide_stay_float_within_the_budget(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "m", intermediate_size=112)
    with open_float_model(model) as checkpoint:
        target = GgufTarget(checkpoint, tmp_path / "codes")
        plan = make_plans(target, stated_costs(target, 0), 150_000)[-1]
    assert 0 <= plan.size - written(model, plan.recipe, tmp_path / "codes") <= 2 * 2 * 64 * 112  # bfloat16, not float32
    assert read_gguf_model(tmp_path / "gguf/model.gguf")[2]["blk.0.ffn_down.weight"] in ("BF16", "F32")


@pytest.mark.parametrize("overrides", [{}, MOE])
def test_a_budget_is_kept_to_by_the_exported_file(overrides: dict[str, Any], tmp_path: Path) -> None:
    """From the command line to the file; the manifest says its bytes before it is there."""
    model, tokens = write_checkpoint(tmp_path / "m", **overrides), tmp_path / "tokens.npy"
    write_tokenizer(model)
    np.save(tokens, random_tokens(12, 32, vocab=300))
    budget = 130_000 if not overrides else 190_000
    q3edge = [sys.executable, "-m", "q3edge"]
    quantizing = ["quantize", model, "-o", tmp_path / "q", "--for", "gguf", "--target-size", f"{budget}B"]
    for command in (
        [*quantizing, "--calibration", tokens],
        ["export", tmp_path / "q", "-o", tmp_path / "g", "--to", "gguf"],
    ):
        done = subprocess.run([*q3edge, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    metrics = Manifest.load(tmp_path / "q").metrics
    size = (tmp_path / "g/model.gguf").stat().st_size
    assert 0.9 * budget < size <= budget
    assert (metrics["exported_for"], metrics["exported_bytes"]) == ("gguf", size)
    allocation = metrics["allocation"]
    assert allocation["plans"][allocation["plan"]]["bytes"] == size


@pytest.mark.parametrize("name", ["int4-mixed", "int4", "int4-fast", "int8", "int8-dynamic"])
def test_every_format_goes_to_gguf_whole(name: str, tmp_path: Path) -> None:
    found = quantize(DENSE, tmp_path / "q", name, method="rtn", for_program="gguf")
    export(tmp_path / "q", tmp_path / "g", to="gguf")
    assert found.metrics["exported_bytes"] == (tmp_path / "g/model.gguf").stat().st_size
    with open_quantized_model(tmp_path / "q") as source:
        schemes = {scheme for tensor in source.names() if (scheme := source.scheme(tensor)) is not None}
    assert {scheme.group_size for scheme in schemes} <= {32, None}
    assert {scheme.scales for scheme in schemes} == {"float16"}


def test_codes_of_another_tool_are_kept_and_the_rest_is_8_bit(tmp_path: Path) -> None:
    quantize(DENSE, tmp_path / "q", "int4", group_size=32, method="rtn")
    export(tmp_path / "q", tmp_path / "gptq", to="gptq")  # its table is float there
    kept, wanted = (quantize(tmp_path / "gptq", tmp_path / str(to), for_program=to) for to in ("gguf", None))
    assert kept.recipe == wanted.recipe
    with open_quantized_model(tmp_path / "gguf") as source:
        assert source.scheme(EMBEDDING) == Scheme(8, 32)
    export(tmp_path / "gguf", tmp_path / "g", to="gguf")
    assert kept.metrics["exported_bytes"] == (tmp_path / "g/model.gguf").stat().st_size


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--format", "int4", "--group-size", "16"], 3, "q: GGUF cannot hold 15 tensors: .* has groups of 16; choose"),
        (["--format", "int8", "--asymmetric"], 3, "has 8 bits with zero points; choose --format"),
        (["--kv", "int8"], 2, "--for gguf: an int8 KV cache is for ONNX models; leave out --kv"),
        (["--target-size", "1000B"], 2, "the smallest that this model can be is"),
    ],
)
def test_what_gguf_does_not_have_is_refused_before_the_work(
    flags: list[str], code: int, message: str, tmp_path: Path
) -> None:
    model = write_checkpoint(tmp_path / "m")
    write_tokenizer(model)
    command = [sys.executable, "-m", "q3edge", "quantize", str(model), "-o", str(tmp_path / "q"), "--for", "gguf"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == code
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("q3edge: "))
    assert re.search(message, line), line
    assert not (tmp_path / "q").exists()
