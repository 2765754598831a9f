"""QDIR with other settings or tensors than q3edge wrote: refused by name, or read where its scheme allows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file

from q3edge.architecture.tensors import EMBEDDING
from q3edge.checkpoint import Checkpoint, open_float_model, open_quantized_model
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from q3edge.storage.json_files import read_json_object
from tests.helpers.quantized_checkpoints import UP, quantize, schemes_for


def change_settings(qdir: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((qdir / "config.json").read_text())
    change(raw["quantization_config"])
    (qdir / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(quant_method="gptq"), "format 'mixed-precision': of GPTQ's layouts only gptq and"),
        (lambda s: s.update(config_groups=[]), "config_groups: expected an object"),
        (lambda s: s["config_groups"].update(group_0=7), "config_groups.group_0: not a group"),
        (lambda s: s["config_groups"]["group_0"].update(targets="Linear"), "group_0: not a group"),
        (lambda s: s["config_groups"]["group_0"].update(targets=["Linear"]), "target 'Linear': no tensor"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(num_bits=5), "bits = 5: expected 2, 4 or 8"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(num_bits="4"), "group_0: not a group"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(actorder="weight"), "group_0: not a group"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(group_size=32.0), "group_0: not a group"),
        (lambda s: s["config_groups"]["group_1"]["weights"].update(group_size=256), "does not divide the width 64"),
        (lambda s: s["config_groups"]["group_1"]["weights"].update(group_size=64), "shape"),
        (lambda s: s["config_groups"].pop("group_1"), "missing"),
    ],
)
def test_settings_that_q3edge_did_not_write(qdir: Path, change: Callable[[Any], object], message: str) -> None:
    change_settings(qdir, change)
    with pytest.raises(InputError) as caught:
        open_quantized_model(qdir)
    assert message in str(caught.value)
    assert str(qdir) in str(caught.value)


def test_missing_and_damaged_tensors(qdir: Path) -> None:
    tensors = load_file(qdir / "model.safetensors")
    scales = tensors.pop("model.layers.0.mlp.up_proj.weight_scale")
    save_file(tensors, qdir / "model.safetensors")
    with pytest.raises(InputError, match=r"1 tensors .* are missing: model\.layers\.0\.mlp\.up_proj\.weight_scale"):
        open_quantized_model(qdir)
    scales[3, 1] = float("inf")
    save_file({**tensors, "model.layers.0.mlp.up_proj.weight_scale": scales}, qdir / "model.safetensors")
    checkpoint = open_quantized_model(qdir)
    assert checkpoint.read(UP, slice(4, 9)).shape == (5, 64)
    with pytest.raises(InputError, match=r"up_proj\.weight\): scales are NaN or infinite"):
        checkpoint.read(UP)


def test_any_float16_is_a_scale_where_the_scheme_says_so(source: Checkpoint, tmp_path: Path) -> None:
    scheme = Scheme(4, 32, symmetric=False, scales="float16")
    quantize(source, tmp_path / "q", schemes_for(source.config, scheme, None))
    tensors = load_file(tmp_path / "q" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight_scale"][3, :] = torch.tensor([1 / 3, -1e-5])
    save_file(tensors, tmp_path / "q" / "model.safetensors")
    with open_quantized_model(tmp_path / "q") as checkpoint:
        assert checkpoint.scheme(UP) == scheme
        assert_array_equal(checkpoint.read_quantized(UP).scales[3], np.array([1 / 3, -1e-5], np.float16), strict=True)
    written = read_json_object(tmp_path / "q" / "config.json")["quantization_config"]
    assert written["config_groups"]["group_0"]["weights"]["scale_dtype"] == "torch.float16"
    QuantizationConfig.model_validate(written)


def test_scales_that_cannot_be_stored_are_refused(qdir: Path) -> None:
    """As earlier versions and other tools write them: any float16."""
    tensors = load_file(qdir / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight_scale"][3, 1] = 1 / 3
    save_file(tensors, qdir / "model.safetensors")
    with pytest.raises(
        InputError, match=r"up_proj\.weight\): scales of a row are not u?int8 multiples .* quantize again"
    ):
        open_quantized_model(qdir).read(UP)


def test_codes_outside_the_range(source: Checkpoint, tmp_path: Path) -> None:
    quantize(source, tmp_path / "q", schemes_for(source.config, None, Scheme(4, 32)))
    tensors = load_file(tmp_path / "q" / "model.safetensors")
    tensors[EMBEDDING][5, 5] = 8
    save_file(tensors, tmp_path / "q" / "model.safetensors")
    with pytest.raises(InputError, match="outside the range of 4 bits"):
        open_quantized_model(tmp_path / "q").read(EMBEDDING)


def test_float_and_quantized_folders_are_not_confused(source: Checkpoint, qdir: Path) -> None:
    with pytest.raises(InputError, match="quantized already"):
        open_float_model(qdir)
    with pytest.raises(InputError, match="a float checkpoint; expected a quantized one"):
        open_quantized_model(source.folder)
