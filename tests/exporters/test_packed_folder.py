"""`export --to gptq`, `mlx` and `compressed-tensors`: codes go out and come back as they are, and others load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from q3edge.architecture.tensors import EMBEDDING
from q3edge.checkpoint import ModelFolder, open_float_model, open_model, open_quantized_model
from q3edge.errors import InputError
from q3edge.formats import OtherFormat
from q3edge.library.requests import recipe_for
from q3edge.pipeline.export_other import export_other
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.layouts import Codes, Tensors, packed_words, random_codes, write_layout
from tests.helpers.models import MOE, write_checkpoint
from tests.helpers.runtime import write_tokenizer

DOWN = "model.layers.*.mlp.down_proj"
TABLE = Rule("model.embed_tokens", Scheme(8, 32))
MIXED = Recipe((Rule(DOWN, Scheme(8, 64)), Rule("model.layers.*_proj", Scheme(4, 32, symmetric=False)), TABLE), "rtn")
SYMMETRIC = Recipe((Rule("model.layers.*_proj", Scheme(4, 32)), TABLE), "rtn")
BY_TOKEN = Recipe((Rule("model.layers.*_proj", Scheme(8, None, activations="int8_per_token")), TABLE), "rtn")
RECIPES = {"mixed": MIXED, "symmetric": SYMMETRIC, "int8 inputs": BY_TOKEN}


def quantized(folder: Path, recipe: Recipe, **config: Any) -> Path:
    write_tokenizer(write_checkpoint(folder / "m", **config))
    quantize_checkpoint(str(folder / "m"), folder / "q", recipe)
    return folder / "q"


def codes_of(model: ModelFolder, name: str) -> QuantizedTensor:
    """Codes of a matrix in a model of any format, in groups of 32."""
    matrix = getattr(model, "matrices", {}).get(name)
    found = model.read_quantized(name) if matrix is None else matrix.codes(slice(0, matrix.shape[0]))
    return found.regrouped(Scheme(found.scheme.bits, 32, found.scheme.symmetric, scales="float16"))


@pytest.mark.parametrize("experts", [{}, MOE], ids=["dense", "experts"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("to", ["gptq", "mlx", "compressed-tensors"])
def test_codes_come_back_as_they_went(tmp_path: Path, to: OtherFormat, recipe: str, experts: dict[str, Any]) -> None:
    rules = RECIPES[recipe] if not experts else Recipe(RECIPES[recipe].rules[-2:], "rtn")  # no down_proj of the layer
    qdir = quantized(tmp_path, rules, **experts)
    export_other(str(qdir), tmp_path / "out", to)
    reader = open_model if to == "compressed-tensors" else open_float_model
    compared = 0
    with open_quantized_model(qdir) as ours, reader(tmp_path / "out") as theirs:
        for name in ours.names():
            if ours.scheme(name) is None or (name == EMBEDDING and to != "mlx"):
                tolerance = 2e-3 if name == EMBEDDING else 0.0  # float16
                np.testing.assert_allclose(theirs.read(name), ours.read(name), rtol=tolerance)
                continue
            before, after = codes_of(ours, name), codes_of(theirs, name)
            np.testing.assert_array_equal(after.codes, before.codes)
            np.testing.assert_array_equal(after.scales, before.scales)
            if before.zero_points is not None and after.zero_points is not None:
                np.testing.assert_array_equal(after.zero_points, before.zero_points)
            assert (after.zero_points is None) == (before.zero_points is None)
            compared += 1
    assert compared >= 14


def test_minima_of_float32_scales_are_float32_in_mlx(tmp_path: Path) -> None:
    layers = Rule("model.layers.*_proj", Scheme(4, 32, symmetric=False, scales="float32"))
    qdir = quantized(tmp_path, Recipe((layers, TABLE), "rtn"))
    manifest = export_other(str(qdir), tmp_path / "out", "mlx")
    assert not any(notice.code == "minimum-rounded" for notice in manifest.notices)
    with open_quantized_model(qdir) as ours, open_float_model(tmp_path / "out") as theirs:
        for name in (name for name in ours.names() if name.endswith("_proj.weight")):
            matrix = theirs.matrices[name]
            assert matrix.scheme == ours.scheme(name)
            np.testing.assert_array_equal(matrix.codes(slice(0, 9)).dequantize(), ours.read(name)[:9])


def gptq(codes: Codes) -> Tensors:
    width = codes.codes.shape[1]
    return {
        "qweight": packed_words(codes.codes.T, 4),
        "qzeros": packed_words(codes.zero_points - 1, 4).T,
        "scales": torch.from_numpy(codes.scales.T.copy()).half(),
        "g_idx": torch.arange(width, dtype=torch.int32) // 32,
    }


def test_gptq_that_was_read_is_written_as_it_was(tmp_path: Path) -> None:
    write_layout(
        tmp_path / "m", {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True},
        lambda shape, seed: random_codes(shape, 4, 32, symmetric=True, dtype=torch.float16, seed=seed), gptq,
    )  # fmt: skip
    write_tokenizer(tmp_path / "m")
    quantize_checkpoint(str(tmp_path / "m"), tmp_path / "q", recipe_for(None, None, None, None, None))
    export_other(str(tmp_path / "q"), tmp_path / "out", "gptq")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("m", "out"))
    assert set(before) == set(after)
    for name in before:
        if name != EMBEDDING:
            assert torch.equal(before[name], after[name]), name
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (settings["bits"], settings["group_size"], settings["sym"], settings["desc_act"]) == (4, 32, True, False)
    assert settings["checkpoint_format"] == "gptq"


def test_settings_name_the_matrices_that_differ(tmp_path: Path) -> None:
    qdir = quantized(tmp_path, MIXED)
    for to in ("gptq", "mlx"):
        export_other(str(qdir), tmp_path / to, to)
    settings = json.loads((tmp_path / "gptq" / "config.json").read_text())["quantization_config"]
    assert settings["checkpoint_format"] == "gptq_v2"  # there are zero points
    assert settings["dynamic"] == {
        rf"+:^model\.layers\.{layer}\.mlp\.down_proj$": {"bits": 8, "group_size": 64, "sym": True} for layer in range(2)
    }
    settings = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert "quantization_config" not in settings
    assert settings["quantization"]["bits"] == 4
    assert settings["quantization"]["model.layers.1.mlp.down_proj"] == {"group_size": 32, "bits": 8}


@pytest.mark.parametrize("recipe", ["symmetric", "int8 inputs", "mixed"])
def test_transformers_loads_compressed_tensors(tmp_path: Path, recipe: str) -> None:
    from transformers import AutoModelForCausalLM

    qdir = quantized(tmp_path, RECIPES[recipe])
    export_other(str(qdir), tmp_path / "out", "compressed-tensors")
    ids = np.arange(10, 40)[None]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits[0].numpy()
    with open_model(tmp_path / "out") as ours:
        found = LogitsHead(ours).logits(hidden_states(ours, ids)[0]).numpy()
    tolerance = 0.05 if recipe == "int8 inputs" else 1e-4  # the reference does not round inputs
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < tolerance


@pytest.mark.parametrize(
    ("to", "rule", "message"),
    [
        ("mlx", Scheme(4, 16), "groups of 16, which MLX does not have; quantize with --group-size 32"),
        ("compressed-tensors", Scheme(4, 16), "groups of 16, which compressed-tensors for vLLM does not have"),
        ("gptq", Scheme(4, 32, scales="float32"), "scales that float16 does not hold, which GPTQ stores"),
    ],
)
def test_what_a_format_does_not_have_is_refused(tmp_path: Path, to: OtherFormat, rule: Scheme, message: str) -> None:
    qdir = quantized(tmp_path, Recipe((Rule("model.layers.*_proj", rule), TABLE), "rtn"))
    with pytest.raises(InputError, match=message):
        export_other(str(qdir), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_a_model_without_codes_in_its_layers_is_refused(tmp_path: Path) -> None:
    qdir = quantized(tmp_path, Recipe((TABLE,), "rtn"))
    with pytest.raises(InputError, match="GPTQ would hold no codes; quantize the layers too"):
        export_other(str(qdir), tmp_path / "out", "gptq")
