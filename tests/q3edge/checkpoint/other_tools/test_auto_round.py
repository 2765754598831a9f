"""AutoRound's own checkpoints: each of its layouts, bits that differ by layer, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from q3edge.checkpoint import open_float_model
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from tests.helpers.layouts import Codes, Tensors, awq_parts, gptq_parts, random_codes, write_layout

ONE_LESS = {"auto_round:auto_gptq": 1, "auto_round:gptq": 1, None: 1, "auto_round": 0, "auto_round:gptqmodel": 0}


def write(folder: Path, layout: str | None, bits: int = 4, **settings: Any) -> dict[str, Codes]:
    """Write a checkpoint; with 4 bits in GPTQ's layout its second matrix has 8."""

    def make(shape: tuple[int, int], seed: int) -> Codes:
        wide = 8 if seed == 1 and "awq" not in str(layout) else bits
        return random_codes(shape, wide, 32, symmetric=False, dtype=torch.float16, seed=seed)

    def pack(codes: Codes) -> Tensors:
        return awq_parts(codes) if "awq" in str(layout) else gptq_parts(codes, ONE_LESS[layout])

    stated = {} if layout is None else {"packing_format": layout}
    return write_layout(folder, {"quant_method": "auto-round", "bits": bits, **stated, **settings}, make, pack)


@pytest.mark.parametrize("layout", [*ONE_LESS, "auto_round:auto_awq", "auto_round:awq"])
def test_values_and_codes(tmp_path: Path, layout: str | None) -> None:
    written = write(tmp_path / "m", layout)
    with open_float_model(tmp_path / "m") as model:
        for name, codes in written.items():
            matrix = model.matrices[name]
            assert matrix.scheme == Scheme(codes.bits, 32, symmetric=False, scales="float16")
            np.testing.assert_array_equal(model.read(name), codes.values)
            np.testing.assert_array_equal(matrix.codes(slice(0, len(codes.codes))).dequantize(), codes.values)
        assert {codes.bits for codes in written.values()} == ({4} if "awq" in str(layout) else {4, 8})
        assert model.notices == ()


@pytest.mark.parametrize(
    "settings",
    [{"packing_format": "auto_round:fp8_static"}, {"packing_format": ["auto_round"]}, {"data_type": "mx_fp"}],
)
def test_layouts_that_are_not_read(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "m", "auto_round", **settings)
    with pytest.raises(
        InputError, match=r"config\.json: packing_format .* of .*: of AutoRound's only integers in auto"
    ):
        open_float_model(tmp_path / "m")


def test_inputs_that_it_rounds_stay_float_and_that_is_told(tmp_path: Path) -> None:
    write(tmp_path / "m", "auto_round", data_type="int", act_bits=8)
    with open_float_model(tmp_path / "m") as model:
        assert [(notice.code, notice.count) for notice in model.notices] == [("inputs-not-rounded", 14)]
