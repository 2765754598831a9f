"""FP8 checkpoints: every float, blocks that do not divide a matrix, scales for all, inputs, and damaged files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from q3edge.architecture.tensors import EMBEDDING
from q3edge.checkpoint import open_float_model
from q3edge.checkpoint.float8 import FLOAT8_VALUES
from q3edge.errors import InputError
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from tests.helpers.layouts import Tensors, edit_tensors, write_parts
from tests.helpers.models import edit_config

QUERY = "model.layers.0.self_attn.q_proj"
SCALES, WEIGHT = f"{QUERY}.weight_scale_inv", f"{QUERY}.weight"
Values = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def test_every_float_is_what_it_is_elsewhere() -> None:
    theirs = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(FLOAT8_VALUES, theirs)
    assert np.signbit(FLOAT8_VALUES[128])


def write(folder: Path, block: tuple[int, int] | None, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> Values:
    """Write a model in FP8; returns its values as torch computes them."""
    expected: Values = {}

    def parts(name: str, weights: torch.Tensor) -> Tensors:
        rows, width = weights.shape
        height, length = block or (rows, width)
        grid = (-(-rows // height), -(-width // length))
        scales = (0.01 + torch.rand(grid, generator=torch.Generator().manual_seed(rows + width))).to(dtype)
        spread = scales.float().repeat_interleave(height, 0)[:rows].repeat_interleave(length, 1)[:, :width]
        floats = (weights / spread).to(torch.float8_e4m3fn)
        expected[name] = (floats.float() * spread).numpy()
        return {"weight": floats, "weight_scale_inv": scales if block else scales.reshape(())}

    write_parts(folder, {"quant_method": "fp8", "activation_scheme": "dynamic", **settings}, parts)
    return expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("block", "settings"),
    [
        ((128, 128), {}),
        ((64, 32), {"weight_block_size": [64, 32]}),
        ((48, 40), {"weight_block_size": [48, 40]}),  # divides no side of any matrix
        (None, {"weight_block_size": None}),
    ],
)
def test_values(
    tmp_path: Path, block: tuple[int, int] | None, settings: dict[str, Any], dtype: torch.dtype
) -> None:  # fmt: skip
    expected = write(tmp_path / "m", block, dtype, **settings)
    with open_float_model(tmp_path / "m") as model:
        assert set(model.matrices) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(model.read(name), values)
            np.testing.assert_array_equal(model.read(name, slice(45, 59)), values[45:59])
        assert model.dtype_counts() == {"BF16": 10, "float8": 14}
        assert model.notices == ()


def test_quantizing_floats_is_no_second_time(tmp_path: Path) -> None:
    write(tmp_path / "m", (32, 32), weight_block_size=[32, 32])
    manifest = quantize_checkpoint(
        str(tmp_path / "m"), tmp_path / "q", replace(Recipe.for_format("int8"), method="rtn")
    )
    assert "dequantized" not in {notice.code for notice in manifest.notices}


def test_scales_of_inputs_are_ignored_and_counted(tmp_path: Path) -> None:
    expected = write(tmp_path / "m", None, weight_block_size=None, activation_scheme="static")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{QUERY}.activation_scale"] = torch.tensor(0.5)
        tensors[f"{QUERY}.weight_scale"] = tensors.pop(f"{QUERY}.weight_scale_inv")  # as older tools of vLLM call it

    edit_tensors(tmp_path / "m", edit)
    with open_float_model(tmp_path / "m") as model:
        assert [(notice.code, notice.count) for notice in model.notices] == [("input-scales-ignored", 1)]
        np.testing.assert_array_equal(model.read(f"{QUERY}.weight"), expected[f"{QUERY}.weight"])


def nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{QUERY}.weight"].view(torch.uint8)[3, 5] = 0x7F


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nan, "q_proj.weight.*NaN; the checkpoint is damaged"),
        (lambda t: t.pop(WEIGHT), "q_proj.weight.*missing; the checkpoint is incomplete"),
        (lambda t: t.pop(SCALES), "q_proj.weight.*dtype F8_E4M3, expected BF16"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].float()}), "q_proj.weight.*dtype F32, expected F8"),
        (lambda t: t.update({WEIGHT: t[WEIGHT][1:].clone()}), "q_proj.weight.*shape"),
        (lambda t: t.update({SCALES: torch.ones(4, 3)}), r"q_proj.weight_scale_inv.*shape \[4, 3\]"),
        (lambda t: t.update({SCALES: torch.ones(4)}), "q_proj.weight_scale_inv.*shape"),
        (lambda t: t.update({SCALES: torch.ones(4, 2).int()}), "weight_scale_inv.*dtype I32"),
        (lambda t: t.update({SCALES: torch.full((4, 2), torch.inf)}), "weight_scale_inv.*NaN or infinite"),
        (lambda t: t.update({"model.norm.weight_scale_inv": torch.ones(1)}), "1 tensors do not belong"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_by_the_tensors_name(
    tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    write(tmp_path / "m", (32, 32), weight_block_size=[32, 32])
    edit_tensors(tmp_path / "m", edit)
    with pytest.raises(InputError, match=message), open_float_model(tmp_path / "m") as model:
        model.read(f"{QUERY}.weight")


@pytest.mark.parametrize(
    "block", [0, "128", [128], [128, "128"], [0, 128], [-1, 8], [1.0, 1.0], [True, 128], [2**40, 1]]
)
def test_sizes_of_blocks_that_are_none(tmp_path: Path, block: object) -> None:
    write(tmp_path / "m", (32, 32), weight_block_size=[32, 32])
    edit_config(tmp_path / "m", quantization_config={"quant_method": "fp8", "weight_block_size": block})
    with pytest.raises(InputError, match=r"config.json: weight_block_size .*: expected two sizes, or null"):
        open_float_model(tmp_path / "m")


def test_a_scale_that_fits_another_size_of_blocks_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m", (32, 32), weight_block_size=[64, 32])
    with pytest.raises(InputError, match=r"weight_scale_inv\): shape \[4, 2\], expected \[2, 2\] for float8"):
        open_float_model(tmp_path / "m")
    edit_config(tmp_path / "m", quantization_config={"quant_method": "fp8", "weight_block_size": None})
    with pytest.raises(InputError, match=r"neither one scale nor one for each of 128 rows"):
        open_float_model(tmp_path / "m")


def test_an_embedding_in_float8(tmp_path: Path) -> None:
    write(tmp_path / "m", None, weight_block_size=None)
    edit_tensors(
        tmp_path / "m",
        lambda tensors: tensors.update(
            {EMBEDDING: tensors[EMBEDDING].to(torch.float8_e4m3fn), f"{EMBEDDING}_scale_inv": torch.tensor(2.0)}
        ),
    )
    with open_float_model(tmp_path / "m") as model:
        assert np.abs(model.read(EMBEDDING)).max() > 0
        assert EMBEDDING in model.matrices
