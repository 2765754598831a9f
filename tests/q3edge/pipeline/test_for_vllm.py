"""`quantize --for vllm`: the format is chosen, said and kept, and its export holds what vLLM loads, nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import q3edge
from q3edge.artifact import Manifest
from q3edge.checkpoint import open_model
from q3edge.errors import InputError, UsageError
from q3edge.pipeline.quantize import quantize as pipeline
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme
from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.models import MOE, write_checkpoint

MODELS = {name: Path(str(files("q3edge.data") / name)) for name in ("demo_model", "demo_moe")}
DENSE = MODELS["demo_model"]
CALIBRATION: dict[str, Any] = {"calibration": DENSE / "calibration.jsonl", "samples": 8, "seq_len": 32}


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Source, quantized checkpoint and export of an embedded model."""
    source, folder = MODELS[request.param], tmp_path_factory.mktemp(request.param)
    q3edge.quantize(source, folder / "q", for_program="vllm")
    q3edge.export(folder / "q", folder / "out", to="compressed-tensors")
    return source, folder / "q", folder / "out"


def test_the_export_holds_what_vllm_has_kernels_for(made: tuple[Path, Path, Path]) -> None:
    source, quantized, out = made
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    for name, weight in before.items():
        stem = name.removesuffix("weight")
        if not name.endswith("_proj.weight"):  # table, norms, routers: as they were
            assert after.pop(name).dtype == torch.bfloat16
            continue
        rows, width = weight.shape
        packed, scales = after.pop(f"{stem}weight_packed"), after.pop(f"{stem}weight_scale")
        assert (packed.dtype, packed.shape) == (torch.int32, (rows, width // 8))
        assert (scales.dtype, scales.shape) == (torch.float16, (rows, width // 32))
        assert torch.equal(scales.bfloat16().half(), scales)  # whichever of the two vLLM computes in
        assert after.pop(f"{stem}weight_shape").tolist() == [rows, width]
    assert not after  # no zero points, no table of codes, no scales of an 8-bit cache
    settings = json.loads((out / "config.json").read_text())["quantization_config"]
    (group,) = settings["config_groups"].values()
    assert settings["format"] == group["format"] == "pack-quantized"
    assert {key: group["weights"][key] for key in ("num_bits", "symmetric", "strategy", "group_size")} == {
        "num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 32,
    }  # fmt: skip
    held = load_file(quantized / "model.safetensors")  # vLLM takes the quantized checkpoint itself as well
    exported = load_file(out / "model.safetensors")
    assert held.keys() == exported.keys()
    assert all(torch.equal(held[name], exported[name]) for name in held)


def test_the_choice_is_said_and_nothing_is_lost_on_the_way(made: tuple[Path, Path, Path]) -> None:
    source, quantized, out = made
    matrices = sum(name.endswith("_proj.weight") for name in load_file(source / "model.safetensors"))
    for folder in (quantized, out):
        manifest = Manifest.load(folder)
        (told,) = manifest.notices
        assert (told.code, told.count) == ("chosen-for-program", matrices)
        assert "4 bits in symmetric groups of 32, chosen for vLLM" in told.detail
        assert Recipe.from_json(manifest.recipe).rules == (Rule("model.layers.*_proj", Scheme(4, 32)),)


def test_transformers_computes_what_the_codes_say(made: tuple[Path, Path, Path]) -> None:
    from transformers import AutoModelForCausalLM

    ids = np.arange(10, 40)[None]
    model = AutoModelForCausalLM.from_pretrained(made[2], dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits[0].numpy()
    with open_model(made[2]) as ours:
        found = LogitsHead(ours).logits(hidden_states(ours, ids)[0]).numpy()
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-3


@pytest.mark.parametrize(
    "given",
    [("--format", "int4"), ("--group-size", "64"), ("--asymmetric",), ("--recipe", "r.toml"), ("--kv", "int8"),
     ("--target-size", "2MB"), ("--target-bpw", "5"), ("--method", "keep")],
    ids=" ".join,
)  # fmt: skip
def test_a_format_given_besides_is_refused_in_one_line(given: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "q3edge", "quantize", str(DENSE), "-o", str(tmp_path / "q"), "--for", "vllm"]
    result = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("q3edge: --for vllm chooses the format itself: leave out --format")
    assert given[0] in line
    assert not (tmp_path / "q").exists()


def test_the_command_says_what_comes_next(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "q3edge", "quantize", str(DENSE), "-o", str(tmp_path / "q"), "--for", "vllm"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = f"wrote {tmp_path / 'q'}; next: q3edge export {tmp_path / 'q'} -o DIR --to compressed-tensors"
    assert result.stderr.splitlines()[-1] == expected


@pytest.mark.parametrize("config", [{"intermediate_size": 48}, {**MOE, "moe_intermediate_size": 16}], ids=str)
def test_a_width_that_no_group_divides_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", **config)
    with pytest.raises(InputError, match=r"down_proj.weight\): groups of 32 do not divide its width of (48|16), and"):
        q3edge.quantize(tmp_path / "m", tmp_path / "q", for_program="vllm")
    assert not (tmp_path / "q").exists()


def test_a_stopped_calibration_goes_on_by_the_same_option_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "r.toml"
    rules.write_text('[[rule]]\nmatch = "model.layers.*_proj"\nbits = 4\ngroup_size = 32\n')
    q3edge.quantize(DENSE, tmp_path / "whole", rules, **CALIBRATION)
    layers: list[dict[str, int]] = []  # finished, with the time of each, when their codes are about to be written

    def finished(*given: Any) -> Any:
        layers.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / ".q.work").glob("layer-*.bin")})
        if len(layers) == 1:
            raise KeyboardInterrupt
        return written(*given)

    written = pipeline._write_weights
    monkeypatch.setattr(pipeline, "_write_weights", finished)
    with pytest.raises(KeyboardInterrupt):
        q3edge.quantize(DENSE, tmp_path / "q", for_program="vllm", **CALIBRATION)
    with pytest.raises(UsageError, match="recipe"):
        q3edge.quantize(DENSE, tmp_path / "q", "int4", **CALIBRATION)
    q3edge.quantize(DENSE, tmp_path / "q", for_program="vllm", **CALIBRATION)
    assert len(layers[0]) >= 4
    assert layers[1] == layers[0]  # none was solved again
    assert (tmp_path / "q/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert not (tmp_path / ".q.work").exists()
