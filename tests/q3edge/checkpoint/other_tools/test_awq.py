"""AWQ checkpoints: values, codes that are kept, layouts, and damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from q3edge.checkpoint import open_float_model
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from tests.helpers.layouts import Codes, awq_parts, edit_tensors, random_codes, write_layout

QUERY = "model.layers.0.self_attn.q_proj"


def write(folder: Path, group_size: int | None = 32, *, symmetric: bool = False, **settings: Any) -> dict[str, Codes]:
    return write_layout(
        folder,
        {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, **settings},
        lambda shape, seed: random_codes(
            shape, 4, group_size or shape[1], symmetric=symmetric, dtype=torch.float16, seed=seed
        ),
        awq_parts,
    )


@pytest.mark.parametrize("settings", [{}, {"version": "gemm"}, {"format": "gemm"}, {"version": "GEMM", "backend": "x"}])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, None])
def test_values_and_codes(
    tmp_path: Path, group_size: int | None, symmetric: bool, settings: dict[str, Any]
) -> None:  # fmt: skip
    written = write(tmp_path / "m", group_size, symmetric=symmetric, **settings)
    with open_float_model(tmp_path / "m") as model:
        for name, codes in written.items():
            matrix = model.matrices[name]
            assert matrix.scheme == Scheme(4, group_size or codes.codes.shape[1], symmetric, scales="float16")
            np.testing.assert_array_equal(model.read(name), codes.values)
            np.testing.assert_array_equal(matrix.codes(slice(0, len(codes.codes))).codes, codes.codes)
            np.testing.assert_array_equal(matrix.codes(slice(3, 29)).dequantize(), codes.values[3:29])
        assert model.notices == ()


@pytest.mark.parametrize(
    "settings", [{"version": "gemv"}, {"format": "llm-awq"}, {"version": 3}, {"version": ["gemm"]}]
)
def test_layouts_that_are_not_read(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "m", **settings)
    with pytest.raises(InputError, match=r"config\.json: (version|format) .*: of AWQ's layouts only gemm is read"):
        open_float_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(f"{QUERY}.scales"), "q_proj.scales.*missing; the checkpoint is incomplete"),
        (lambda t: t.pop(f"{QUERY}.qzeros"), "q_proj.qzeros.*missing; the checkpoint is incomplete"),
        (lambda t: t.update({f"{QUERY}.qweight": torch.zeros(8, 128).int()}), "q_proj.qweight.*AWQ of 4 bits"),
        (lambda t: t.update({f"{QUERY}.qweight": torch.zeros(64, 32).int()}), "q_proj.qweight.*AWQ of 4 bits"),
        (lambda t: t.update({f"{QUERY}.qweight": t[f"{QUERY}.qweight"].float()}), "q_proj.qweight.*dtype F32"),
        (lambda t: t.update({f"{QUERY}.qzeros": t[f"{QUERY}.qzeros"][:1].clone()}), "q_proj.qzeros.*shape"),
        (lambda t: t.update({f"{QUERY}.scales": t[f"{QUERY}.scales"][:0].clone()}), "q_proj.scales.*groups"),
        (lambda t: t.update({f"{QUERY}.scales": torch.ones(())}), "q_proj.scales.*groups"),
        (lambda t: t.update({f"{QUERY}.scales": t[f"{QUERY}.scales"] * torch.inf}), "q_proj.scales.*NaN or inf"),
        (lambda t: t.update({f"{QUERY}.g_idx": torch.zeros(64).int()}), "1 tensors do not belong"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_by_the_tensors_name(
    tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    write(tmp_path / "m")
    edit_tensors(tmp_path / "m", edit)
    with pytest.raises(InputError, match=message), open_float_model(tmp_path / "m") as model:
        model.read(f"{QUERY}.weight")
