"""MLX checkpoints: values as mlx.core dequantizes them, codes where minima are zero points, experts, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from q3edge.checkpoint import open_float_model
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from tests.helpers.layouts import Codes, Tensors, random_codes, write_layout
from tests.helpers.models import MOE, edit_config, write_checkpoint

QUERY = "model.layers.0.self_attn.q_proj"
Change = Callable[[dict[str, torch.Tensor]], object]


def bit_stream(codes: NDArray[np.int64], bits: int) -> torch.Tensor:
    """Pack rows of codes, one bit after another, into 32-bit words."""
    words = np.zeros((len(codes), codes.shape[1] * bits // 32), np.uint32)
    for row, values in enumerate(codes):
        number = sum(int(code) << (bits * place) for place, code in enumerate(values))
        words[row] = np.frombuffer(number.to_bytes(words.shape[1] * 4, "little"), "<u4")
    return torch.from_numpy(words)


def mlx(codes: Codes, biases: NDArray[np.float32] | None = None) -> Tensors:
    found = -codes.zero_points.astype(np.float32) * codes.scales if biases is None else biases
    return {
        "weight": bit_stream(codes.codes, codes.bits),
        "scales": torch.from_numpy(codes.scales),
        "biases": torch.from_numpy(found),
    }


def write(
    folder: Path, bits: int = 4, *, symmetric: bool = False, exact: bool = True, **config: Any
) -> dict[str, Codes]:
    def pack(codes: Codes) -> Tensors:
        return mlx(codes, None if exact else np.full(codes.scales.shape, 0.3, np.float32))

    written = write_layout(
        folder, {},
        lambda shape, seed: random_codes(shape, bits, 32, symmetric=symmetric, dtype=torch.float32, seed=seed),
        pack, **config,
    )  # fmt: skip
    edit_config(folder, quantization={"group_size": 32, "bits": bits}, quantization_config=None)
    return written


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_minima_that_are_zero_points_keep_the_codes(tmp_path: Path, bits: int, symmetric: bool) -> None:
    written = write(tmp_path / "m", bits, symmetric=symmetric)
    with open_float_model(tmp_path / "m") as model:
        for name, codes in written.items():
            matrix = model.matrices[name]
            assert matrix.scheme == Scheme(bits, 32, symmetric, scales="float32")
            np.testing.assert_array_equal(matrix.codes(slice(2, 7)).codes, codes.codes[2:7])
            np.testing.assert_array_equal(matrix.codes(slice(2, 7)).dequantize(), codes.values[2:7])
            np.testing.assert_allclose(model.read(name), codes.values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_other_minima_give_values_alone(tmp_path: Path, bits: int) -> None:
    written = write(tmp_path / "m", bits, exact=False)
    with open_float_model(tmp_path / "m") as model:
        for name, codes in written.items():
            scales = codes.scales.repeat(32, axis=1)
            np.testing.assert_array_equal(model.read(name), scales * codes.codes.astype(np.float32) + np.float32(0.3))
            matrix = model.matrices[name]
            assert matrix.scheme is None
            assert matrix.why_not == "its minima are no multiples of its scales"
            with pytest.raises(TypeError, match="minima"):
                matrix.codes(slice(0, 1))


def test_experts_are_stacked(tmp_path: Path) -> None:
    written = write(tmp_path / "m", **MOE)
    stored = load_file(tmp_path / "m" / "model.safetensors")
    stacked = {name: tensor for name, tensor in stored.items() if ".experts." not in name}
    for layer in range(2):
        for matrix in ("gate_proj", "up_proj", "down_proj"):
            for part in ("weight", "scales", "biases"):
                own = [stored[f"model.layers.{layer}.mlp.experts.{expert}.{matrix}.{part}"] for expert in range(8)]
                stacked[f"model.layers.{layer}.mlp.switch_mlp.{matrix}.{part}"] = torch.stack(own)
    save_file(stacked, tmp_path / "m" / "model.safetensors")
    with open_float_model(tmp_path / "m") as model:
        for name, codes in written.items():
            np.testing.assert_allclose(model.read(name), codes.values, rtol=0, atol=1e-6)
    stacked["model.layers.0.mlp.switch_mlp.up_proj.weight"] = torch.zeros(7, 32, 8, dtype=torch.uint32)
    save_file(stacked, tmp_path / "m" / "model.safetensors")
    with pytest.raises(InputError, match=r"switch_mlp\.up_proj\.weight\): shape \[7, 32, 8\], expected the matrices"):
        open_float_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(f"{QUERY}.biases"), "q_proj.biases.*missing; the checkpoint is incomplete"),
        (lambda t: t.pop(f"{QUERY}.weight"), "q_proj.weight.*missing"),
        (
            lambda t: t.update({f"{QUERY}.weight": torch.zeros(128, 9, dtype=torch.uint32)}),
            "q_proj.weight.*bits a code",
        ),
        (lambda t: t.update({f"{QUERY}.weight": torch.zeros(128, 8, dtype=torch.int64)}), "q_proj.weight.*dtype I64"),
        (lambda t: t.update({f"{QUERY}.scales": torch.ones(128, 3)}), "q_proj.scales.*groups do not divide"),
        (lambda t: t.update({f"{QUERY}.scales": torch.ones(128)}), "q_proj.scales.*groups do not divide"),
        (lambda t: t.update({f"{QUERY}.biases": torch.ones(128, 1)}), "q_proj.biases.*shape"),
        (lambda t: t.update({f"{QUERY}.scales": torch.ones(128, 2) * torch.nan}), "q_proj.scales.*NaN"),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(tmp_path: Path, edit: Change, message: str) -> None:
    write(tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    edit(tensors)
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(InputError, match=message), open_float_model(tmp_path / "m") as model:
        model.read(f"{QUERY}.weight")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "mode = 'mxfp4': expected affine"),
        ({"group_size": 32, "bits": 4, "lm_head": {"mode": "nvfp4"}}, "mode = 'nvfp4': expected affine"),
        ({"group_size": 64, "bits": 4}, r"quantization_config \(MLX\), but no matrix is stored in that way"),
    ],
)
def test_settings_without_what_they_say_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    edit_config(folder, quantization=settings)
    with pytest.raises(InputError, match=message):
        open_float_model(folder)
