"""Checkpoints of other tools with damaged settings and headers: refused in one line, or read as they were written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q3edge.checkpoint import open_float_model
from q3edge.errors import Q3EdgeError
from tests.fuzz.cases import check_refusals, counts, damaged_json, json_bytes, outcome
from tests.helpers.layouts import Codes, Tensors, awq_parts, gptq_parts, random_codes, write_layout, write_parts

SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
QUERY = "model.layers.0.self_attn.q_proj.weight"
Write = Callable[[Path], object]


def integers(settings: dict[str, Any], pack: Callable[[Codes], Tensors]) -> Write:
    def codes(shape: tuple[int, int], seed: int) -> Codes:
        return random_codes(shape, 4, 16, symmetric=False, dtype=torch.float16, seed=seed)

    return lambda folder: write_layout(folder, settings, codes, pack, **SMALL)


def fp8(_: str, weights: torch.Tensor) -> Tensors:
    rows, width = weights.shape
    return {"weight": weights.to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(rows // 16, width // 32)}


def w8a8(_: str, weights: torch.Tensor) -> Tensors:
    return {"weight": (weights * 30).clamp(-127, 127).to(torch.int8), "weight_scale": torch.ones(len(weights), 1)}


def w4a16(codes: Codes) -> Tensors:
    parts = gptq_parts(codes, 0)
    return {
        "weight_packed": pack_rows(codes.codes),
        "weight_zero_point": pack_rows(codes.zero_points.T).T,
        "weight_scale": parts["scales"].T,
        "weight_shape": torch.tensor(codes.codes.shape),
    }


def pack_rows(codes: NDArray[np.int64]) -> torch.Tensor:
    return gptq_parts(Codes(4, codes, np.ones((len(codes), 1), np.float32), np.ones((len(codes), 1), int)), 0)[
        "qweight"
    ].T


def nf4(_: str, weights: torch.Tensor) -> Tensors:
    state = {
        "quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weights.shape),
        "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5,
    }  # fmt: skip
    blocks = weights.numel() // 64
    return {
        "weight": torch.arange(weights.numel() // 2).to(torch.uint8)[:, None],
        "weight.absmax": torch.arange(blocks).to(torch.uint8),
        "weight.quant_map": torch.linspace(-1, 1, 16),
        "weight.nested_absmax": torch.ones(-(-blocks // 256)),
        "weight.nested_quant_map": torch.linspace(0, 1, 256),
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def compressed(**weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True, **weights}, "input_activations": None}
    other = {**group, "targets": ["re:.*lm_head$"], "input_activations": {"num_bits": 8, "dynamic": True}}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group, "group_1": other}}


LAYOUTS: dict[str, Write] = {
    "gptq": integers({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq"}, partial(gptq_parts, one_less=1)),
    "awq": integers({"quant_method": "awq", "bits": 4, "version": "gemm"}, awq_parts),
    "auto-round": integers(
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "data_type": "int", "act_bits": 16},
        partial(gptq_parts, one_less=1),
    ),
    "bitsandbytes": lambda folder: write_parts(folder, {"quant_method": "bitsandbytes"}, nf4, **SMALL),
    "fp8": lambda folder: write_parts(folder, {"quant_method": "fp8", "weight_block_size": [16, 32]}, fp8, **SMALL),
    "w8a8": lambda folder: write_parts(folder, compressed(num_bits=8, strategy="channel"), w8a8, **SMALL),
    "w4a16": integers(compressed(num_bits=4, strategy="group", group_size=16), w4a16),
}


def read_all(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Values of every matrix; those of kept codes must be equal to them."""
    with open_float_model(folder) as model:
        found = {name: model.read(name) for name in model.matrices}
        for name, matrix in model.matrices.items():
            if matrix.scheme is not None:
                kept = matrix.codes(slice(0, matrix.shape[0])).dequantize()
                np.testing.assert_array_equal(kept, found[name])
    return found


def header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_damaged_header(content: bytes, source: random.Random) -> bytes:
    """The file with one matrix's tensors renamed, removed, or of another dtype or shape of the same size."""
    entries, data = header(content)
    name = source.choice([name for name in entries if "_proj." in name])
    entry = entries[name]
    match source.randrange(5):
        case 0:
            entries[source.choice((name + "x", name.replace("weight", "w"), "model.norm.scales"))] = entries.pop(name)
        case 1:
            same = [["I32", "F32", "U32"], ["F16", "BF16", "I16"], ["U8", "I8", "F8_E4M3", "F8_E5M2", "BOOL"]]
            entry["dtype"] = source.choice(next((kind for kind in same if entry["dtype"] in kind), ["F64"]))
        case 2:
            entry["shape"] = source.choice((entry["shape"][::-1], [*entry["shape"], 1], [1, *entry["shape"]]))
        case 3:
            entry["shape"] = [int(np.prod(entry["shape"]))]
        case _:
            other = source.choice([other for other in entries if other != "__metadata__"])
            entries[name], entries[other] = entries[other], entry
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settings_and_headers(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "m"
    LAYOUTS[layout](folder)
    expected, config = read_all(folder), json.loads((folder / "config.json").read_bytes())
    whole = (folder / "model.safetensors").read_bytes()
    refused = 0
    for number, source in counts(layout, 40, 1000):
        of_settings = source.random() < 0.5
        settings = damaged_json(config["quantization_config"], source) if of_settings else config["quantization_config"]
        content = {**config, "quantization_config": settings}
        (folder / "config.json").write_bytes(
            json_bytes(content, source) if of_settings else json.dumps(content).encode()
        )
        (folder / "model.safetensors").write_bytes(whole if of_settings else with_damaged_header(whole, source))
        case = f"{layout}:{number}"
        found = outcome(case, partial(read_all, folder))
        if isinstance(found, Q3EdgeError):
            refused += 1
        elif of_settings:
            for name in expected:
                np.testing.assert_array_equal(found[name], expected[name], err_msg=case)
        else:
            assert all(np.isfinite(values).all() for values in found.values()), case
    check_refusals(refused)
