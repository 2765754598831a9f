"""bitsandbytes checkpoints, quantized by the library itself: its own dequantization, kept int8, damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q3edge.checkpoint import open_float_model
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from tests.helpers.layouts import Tensors, edit_tensors, write_parts

functional: Any = pytest.importorskip("bitsandbytes.functional", reason="the extra `baselines` is not installed")

QUERY = "model.layers.0.self_attn.q_proj"
Values = dict[str, NDArray[np.float32]]


def write_4_bits(
    folder: Path, kind: str, nested: bool, block: int = 64, storage: torch.dtype = torch.uint8, **config: Any
) -> Values:
    """Write a model that the library quantizes; returns what it makes of it in float32.

    Asked for one long row: its kernel for CPUs (0.50.2) begins a block anew in each row, where it quantizes none.
    """
    expected: Values = {}

    def parts(name: str, weights: torch.Tensor) -> Tensors:
        codes, state = functional.quantize_4bit(
            weights, blocksize=block, compress_statistics=nested, quant_type=kind, quant_storage=storage
        )
        packed = state.as_dict(packed=True)
        state.shape = torch.Size((1, weights.numel()))
        expected[name] = functional.dequantize_4bit(codes, state).reshape(weights.shape).numpy()
        return {"weight": codes, **{f"weight.{part}": tensor for part, tensor in packed.items()}}

    write_parts(folder, {"quant_method": "bitsandbytes", "load_in_4bit": True}, parts, **config)
    return expected


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_4_bits(tmp_path: Path, kind: str, nested: bool, block: int) -> None:
    expected = write_4_bits(tmp_path / "m", kind, nested, block)
    with open_float_model(tmp_path / "m") as model:
        for name, values in expected.items():
            np.testing.assert_allclose(model.read(name), values, rtol=3e-7, atol=0)
            np.testing.assert_array_equal(model.read(name, slice(5, 31)), model.read(name)[5:31])
            matrix = model.matrices[name]
            assert matrix.scheme is None
            assert matrix.why_not == "its 16 values are not evenly spaced"
        assert model.dtype_counts() == {"BF16": 10, f"bitsandbytes {kind}": 14}


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
def test_codes_that_are_stored_as_other_numbers(tmp_path: Path, storage: torch.dtype) -> None:
    expected = write_4_bits(tmp_path / "m", "nf4", True, storage=storage)
    with open_float_model(tmp_path / "m") as model:
        for name, values in expected.items():
            np.testing.assert_allclose(model.read(name, slice(3, 60)), values[3:60], rtol=3e-7, atol=0)


def test_rows_that_blocks_and_bytes_do_not_divide(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 80, "intermediate_size": 112, "head_dim": 40, "num_attention_heads": 2}
    expected = write_4_bits(tmp_path / "m", "nf4", True, **sizes)
    with open_float_model(tmp_path / "m") as model:
        for name, values in expected.items():
            np.testing.assert_allclose(model.read(name), values, rtol=3e-7, atol=0)
            for start in (1, 7, 33):
                np.testing.assert_array_equal(model.read(name, slice(start, 39)), model.read(name)[start:39])


def write_int8(folder: Path) -> Values:
    expected: Values = {}

    def parts(name: str, weights: torch.Tensor) -> Tensors:
        codes, scales, _ = functional.int8_vectorwise_quant(weights.half())
        expected[name] = functional.int8_vectorwise_dequant(codes, scales).numpy()
        return {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}

    write_parts(folder, {"quant_method": "bitsandbytes", "load_in_8bit": True}, parts)
    return expected


def test_int8_is_kept(tmp_path: Path) -> None:
    expected = write_int8(tmp_path / "m")
    with open_float_model(tmp_path / "m") as model:
        for name, values in expected.items():
            np.testing.assert_allclose(model.read(name), values, rtol=3e-7, atol=0)
            matrix = model.matrices[name]
            assert matrix.scheme == Scheme(8, values.shape[1], scales="float32")
            np.testing.assert_array_equal(matrix.codes(slice(2, 50)).dequantize(), model.read(name)[2:50])


Change = Callable[[dict[str, torch.Tensor]], object]
STATE, WEIGHT, SCALES = f"{QUERY}.weight.quant_state.bitsandbytes__nf4", f"{QUERY}.weight", f"{QUERY}.weight.absmax"


def state(**fields: Any) -> Change:
    """Change fields of the JSON object; None takes one away."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        found = {**json.loads(bytes(tensors[STATE].tolist())), **fields}
        text = json.dumps({field: value for field, value in found.items() if value is not None})
        tensors[STATE] = torch.tensor(list(text.encode()), dtype=torch.uint8)

    return edit


def raw_state(content: bytes) -> Change:
    return lambda tensors: tensors.update({STATE: torch.tensor(list(content), dtype=torch.uint8)})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (state(quant_type="fp4"), "quant_type 'fp4': expected 'nf4'"),
        (state(shape=[64, 128]), r"shape \[64, 128\]: expected \[128, 64\]"),
        (state(shape=None), "shape None: expected"),
        (state(blocksize=0), "blocksize 0: expected a positive size"),
        (state(blocksize=1e9), "blocksize 1000000000.0: expected a positive size"),
        (state(blocksize=2**40), "blocksize 1099511627776: expected a positive size"),
        (state(blocksize=32), "q_proj.weight.absmax.*shape"),
        (state(nested_blocksize=-1), "nested_blocksize -1: expected a positive size"),
        (state(nested_offset="0"), "nested_offset '0': expected a number"),
        (state(nested_offset=float("nan")), "nested_offset nan: expected a number"),
        (raw_state(b"[]"), "not a JSON object; the checkpoint is damaged"),
        (raw_state(b"\xff{"), "not a JSON object"),
        (raw_state(b"[" * 9000), "not a JSON object"),
        (raw_state(b" " * 20000), r"U8 \[20000\]: expected a JSON object in a few bytes"),
        (lambda t: t.update({STATE: torch.zeros(3)}), r"F32 \[3\]: expected a JSON object"),
        (lambda t: t.pop(f"{QUERY}.weight.quant_map"), "q_proj.weight.quant_map.*missing"),
        (lambda t: t.pop(f"{QUERY}.weight.nested_quant_map"), "q_proj.weight.nested_quant_map.*missing"),
        (lambda t: t.pop(f"{QUERY}.weight.nested_absmax"), "q_proj.weight.absmax.*dtype U8, expected F32"),
        (lambda t: t.pop(STATE), "do not belong|shape"),
        (lambda t: t.update({SCALES: t[SCALES].float()}), "q_proj.weight.absmax.*dtype F32, expected U8"),
        (lambda t: t.update({SCALES: t[SCALES][1:].clone()}), "q_proj.weight.absmax.*shape"),
        (lambda t: t.update({WEIGHT: t[WEIGHT][1:].clone()}), "q_proj.weight.*shape"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].long()}), "q_proj.weight.*dtype I64"),
        (lambda t: t.update({f"{WEIGHT}.quant_map": torch.full((16,), torch.nan)}), "q_proj.weight.quant_map.*NaN"),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(tmp_path: Path, edit: Change, message: str) -> None:
    write_4_bits(tmp_path / "m", "nf4", True)
    edit_tensors(tmp_path / "m", edit)
    with pytest.raises(InputError, match=message), open_float_model(tmp_path / "m") as model:
        model.read(f"{QUERY}.weight")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update({f"{QUERY}.SCB": torch.ones(5)}), "q_proj.SCB.*shape"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].half()}), "q_proj.weight.*dtype F16, expected I8"),
        (
            lambda t: t.update({f"{QUERY}.weight_format": torch.tensor(1).byte()}),
            "q_proj.weight_format.*only weights by",
        ),
        (lambda t: t.pop(f"{QUERY}.SCB"), "do not belong|dtype I8"),
    ],
)
def test_damaged_int8_is_refused(tmp_path: Path, edit: Change, message: str) -> None:
    write_int8(tmp_path / "m")
    edit_tensors(tmp_path / "m", edit)
    with pytest.raises(InputError, match=message), open_float_model(tmp_path / "m") as model:
        model.read(f"{QUERY}.weight")
