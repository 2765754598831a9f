"""GPTQ checkpoints: values, codes that are kept, orders of columns, and damaged files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from q3edge.checkpoint import open_float_model
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from tests.helpers.layouts import Codes, edit_tensors, gptq_parts, random_codes, write_layout
from tests.helpers.models import edit_config

QUERY = "model.layers.0.self_attn.q_proj"
Change = Callable[[dict[str, torch.Tensor]], None]


def write(
    folder: Path, *, symmetric: bool = True, bits: int = 4, group_size: int = 32, **settings: Any
) -> dict[str, Codes]:
    one_less = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    return write_layout(
        folder,
        {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": symmetric, **settings},
        lambda shape, seed: random_codes(
            shape, bits, group_size, symmetric=symmetric, dtype=torch.float16, seed=seed
        ),
        lambda codes: gptq_parts(codes, one_less),
    )  # fmt: skip


@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_and_codes(tmp_path: Path, bits: int, symmetric: bool, checkpoint_format: str) -> None:
    written = write(tmp_path / "m", bits=bits, symmetric=symmetric, checkpoint_format=checkpoint_format)
    with open_float_model(tmp_path / "m") as model:
        for name, codes in written.items():
            matrix = model.matrices[name]
            assert matrix.scheme == Scheme(bits, 32, symmetric, scales="float16")
            np.testing.assert_array_equal(model.read(name), codes.values)
            np.testing.assert_array_equal(matrix.codes(slice(0, len(codes.codes))).codes, codes.codes)
            np.testing.assert_array_equal(matrix.codes(slice(3, 9)).dequantize(), codes.values[3:9])


def test_a_scale_for_a_whole_row_is_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    written = write_layout(
        folder, {"quant_method": "gptq", "bits": 4, "group_size": -1},
        lambda shape, seed: random_codes(shape, 4, shape[1], symmetric=False, dtype=torch.float16, seed=seed),
        lambda codes: gptq_parts(codes, 1),
    )  # fmt: skip
    with open_float_model(folder) as model:
        for name, codes in written.items():
            matrix = model.matrices[name]
            assert matrix.scheme == Scheme(4, codes.codes.shape[1], symmetric=False, scales="float16")
            np.testing.assert_array_equal(matrix.codes(slice(0, len(codes.codes))).dequantize(), codes.values)


def test_an_order_of_columns_is_followed_and_keeps_no_codes(tmp_path: Path) -> None:
    written = write(tmp_path / "m", symmetric=False)
    order = np.random.default_rng(0).permutation(64)
    groups = torch.from_numpy(order // 32).int()
    edit_tensors(tmp_path / "m", lambda tensors: tensors.update({f"{QUERY}.g_idx": groups}))
    codes = written[f"{QUERY}.weight"]
    expected = np.empty(codes.codes.shape, np.float32)
    for row, column in np.ndindex(*expected.shape):
        group = order[column] // 32
        expected[row, column] = (codes.codes[row, column] - codes.zero_points[row, group]) * codes.scales[row, group]
    with open_float_model(tmp_path / "m") as model:
        np.testing.assert_array_equal(model.read(f"{QUERY}.weight"), expected)
        matrix = model.matrices[f"{QUERY}.weight"]
        assert matrix.scheme is None
        assert "desc_act" in matrix.why_not
        with pytest.raises(TypeError, match="desc_act"):
            matrix.codes(slice(0, 1))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(f"{QUERY}.scales"), "q_proj.scales.*missing; the checkpoint is incomplete"),
        (lambda t: t.update({f"{QUERY}.qweight": t[f"{QUERY}.qweight"][:7].clone()}), "q_proj.qweight.*bits a code"),
        (lambda t: t.update({f"{QUERY}.qzeros": t[f"{QUERY}.qzeros"][:1].clone()}), "q_proj.qzeros.*shape"),
        (lambda t: t.update({f"{QUERY}.scales": t[f"{QUERY}.scales"][:0].clone()}), "q_proj.scales.*groups"),
        (lambda t: t.update({f"{QUERY}.scales": t[f"{QUERY}.scales"].int()}), "q_proj.scales.*dtype I32"),
        (lambda t: t.update({f"{QUERY}.g_idx": t[f"{QUERY}.g_idx"] + 9}), "q_proj.g_idx.*damaged"),
        (lambda t: t.update({f"{QUERY}.scales": t[f"{QUERY}.scales"] * torch.nan}), "q_proj.scales.*NaN"),
        (lambda t: t.update({f"{QUERY}.qweight": torch.zeros(8, dtype=torch.int32)}), "q_proj.qweight"),
        (lambda t: t.update({"model.layers.0.self_attn.x_proj.qweight": torch.zeros(1)}), "do not belong"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_by_the_tensors_name(tmp_path: Path, edit: Change, message: str) -> None:
    write(tmp_path / "m", symmetric=False)
    edit_tensors(tmp_path / "m", edit)
    with pytest.raises(InputError, match=message), open_float_model(tmp_path / "m") as model:
        model.read(f"{QUERY}.weight")


@pytest.mark.parametrize(
    "settings", [{"checkpoint_format": "marlin"}, {"format": "gptq_p"}, {"checkpoint_format": [1]}]
)
def test_layouts_that_are_not_read(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "m", **settings)
    with pytest.raises(InputError, match=r"config\.json: (checkpoint_)?format .*: of GPTQ's layouts only gptq and"):
        open_float_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, {}),
        ({"group_size": 128, "bits": 4}, {"groups-contradicted": "groups of 32 by .* says group_size = 128;"}),
        ({"bits": 8}, {"bits-contradicted": "have 4 bits by their shapes, .* config.json says bits = 8;"}),
        ({"bits": 8, "dynamic": {"+:.*": {"bits": 4}, "-:x": {}}}, {}),  # what a pattern says of any matrix goes
        ({"bits": "4", "group_size": None}, {}),  # says nothing
    ],
    ids=str,
)
def test_settings_that_contradict_the_shapes_are_told(
    tmp_path: Path, settings: dict[str, Any], told: dict[str, str]
) -> None:
    written = write(tmp_path / "m")
    stated = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, **settings}
    edit_config(tmp_path / "m", quantization_config=stated)
    with open_float_model(tmp_path / "m") as model:
        found = {notice.code: notice for notice in model.notices}
        np.testing.assert_array_equal(model.read(f"{QUERY}.weight"), written[f"{QUERY}.weight"].values)
    assert found.keys() == told.keys()
    for code, message in told.items():
        assert found[code].count == len(written)
        assert re.search(message, found[code].detail)


def test_one_scale_a_row_is_what_a_group_size_of_minus_one_says(tmp_path: Path) -> None:
    write(tmp_path / "m", group_size=64)
    edit_config(tmp_path / "m", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": -1})
    with open_float_model(tmp_path / "m") as model:
        (found,) = model.notices
    assert found.code == "groups-contradicted"
    assert 0 < found.count < 14  # those that are 64 wide have one scale a row
