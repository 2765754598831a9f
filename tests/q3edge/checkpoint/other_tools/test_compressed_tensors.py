"""compressed-tensors of other tools, compressed by the library itself: values, codes, inputs, groups, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

from q3edge.architecture.tensors import EMBEDDING
from q3edge.checkpoint import open_float_model, open_quantized_model
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from q3edge.storage.json_files import read_json_object
from tests.helpers.layouts import Tensors, edit_tensors, write_parts
from tests.helpers.models import edit_config

QUERY = "model.layers.0.self_attn.q_proj"
PER_TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}
Values = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


@dataclass(frozen=True)
class Written:
    """What the library makes of the weights it compressed, and its own codes, by the weight's name."""

    values: Values
    codes: dict[str, torch.Tensor]


def write(
    folder: Path,
    layout: str,
    weights: dict[str, Any],
    inputs: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    **fields: Any,
) -> Written:
    """Write a model that the library compresses by the scheme of its linear layers; scales in `dtype`."""
    args = QuantizationArgs(**weights)
    of_inputs = None if inputs is None else QuantizationArgs(**inputs)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=of_inputs, format=layout)
    library = BaseCompressor.get_value_from_registry(layout)
    written = Written({}, {})

    def parts(name: str, values: torch.Tensor) -> Tensors:
        state = {"weight": values, **quantization(values, args, dtype)}
        compressed: dict[str, torch.Tensor] = library.compress(state, scheme)
        exact = {**compressed, "weight_scale": compressed["weight_scale"].float()}  # it computes in the scale's type
        written.values[name] = library.decompress(exact, scheme)["weight"].numpy()
        written.codes[name] = compressed["weight" if "weight" in compressed else "weight_packed"]
        return compressed

    settings = QuantizationConfig(
        config_groups={"group_0": scheme}, format=layout, quantization_status="compressed", ignore=["lm_head"]
    ).model_dump(mode="json")
    write_parts(folder, {**settings, "version": "0.17.1", **fields}, parts)
    return written


def quantization(values: torch.Tensor, args: QuantizationArgs, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Scales, zero points and an order of columns as an observer finds them."""
    rows, width = values.shape
    size = {"group": args.group_size, "channel": width, "tensor": width, "block": width}[str(args.strategy)]
    state: dict[str, torch.Tensor] = {}
    if str(args.strategy) == "block":
        height, length = args.block_structure
        grid = (-(-rows // height), -(-width // length))
        return {"weight_scale": (0.01 + 0.01 * torch.rand(grid)).to(dtype)}
    if str(args.actorder) == "group":
        order = torch.from_numpy(np.random.default_rng(rows).permutation(width))
        state["weight_g_idx"] = (order // size).int()
        values = values[:, torch.argsort(state["weight_g_idx"], stable=True)]
    grouped = values.reshape(rows, -1, size)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    if str(args.strategy) == "tensor":
        low, high = low.min().reshape(1), high.max().reshape(1)
    steps = 448.0 if str(args.type) == "float" else (1 << args.num_bits) / 2
    scales = torch.maximum(-low, high) / steps if args.symmetric else (high - low) / (2 * steps - 1)
    state["weight_scale"] = scales.to(dtype)
    if not args.symmetric:
        state["weight_zero_point"] = (-low / scales).round().clamp(0, 2 * steps - 1).sub(steps).to(torch.int8)
    return state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", [{"strategy": "group", "group_size": 32}, {"strategy": "channel"}])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed(tmp_path: Path, bits: int, strategy: dict[str, Any], symmetric: bool, dtype: torch.dtype) -> None:
    weights = {"num_bits": bits, "symmetric": symmetric, **strategy}
    written = write(tmp_path / "m", "pack-quantized", weights, dtype=dtype)
    with open_float_model(tmp_path / "m") as model:
        assert set(model.matrices) == set(written.values)
        for name, values in written.values.items():
            np.testing.assert_array_equal(model.read(name), values)
            np.testing.assert_array_equal(model.read(name, slice(5, 37)), values[5:37])
            matrix = model.matrices[name]
            assert matrix.scheme is not None
            size = 32 if "group_size" in strategy else values.shape[1]
            assert (matrix.scheme.bits, matrix.scheme.group_size) == (bits, size)
            assert matrix.scheme.symmetric or not symmetric
            assert matrix.scheme.scales == "float16" or dtype != torch.float16
            np.testing.assert_array_equal(matrix.codes(slice(0, len(values))).dequantize(), values)
            np.testing.assert_array_equal(matrix.codes(slice(3, 19)).dequantize(), values[3:19])
        assert model.notices == ()
    with pytest.raises(InputError, match=r"quantized by another tool \(compressed-tensors\); `q3edge build"):
        open_quantized_model(tmp_path / "m")


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_order_of_columns(tmp_path: Path, symmetric: bool) -> None:
    weights = {"num_bits": 4, "symmetric": symmetric, "strategy": "group", "group_size": 32}
    written = write(tmp_path / "m", "pack-quantized", {**weights, "actorder": "group"})
    with open_float_model(tmp_path / "m") as model:
        for name, values in written.values.items():
            np.testing.assert_array_equal(model.read(name), values)
        matrix = model.matrices[f"{QUERY}.weight"]
        assert matrix.scheme is None
        assert "desc_act" in matrix.why_not
    unset = torch.full((64,), -1, dtype=torch.int32)
    edit_tensors(tmp_path / "m", lambda tensors: tensors.update({f"{QUERY}.weight_g_idx": unset}))
    with open_float_model(tmp_path / "m") as model:
        assert model.matrices[f"{QUERY}.weight"].scheme == Scheme(4, 32, symmetric, scales="float16")


@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_w8a8_is_kept_with_its_inputs(tmp_path: Path, strategy: str) -> None:
    written = write(tmp_path / "m", "int-quantized", {"num_bits": 8, "strategy": strategy}, PER_TOKEN, torch.float16)
    with open_float_model(tmp_path / "m") as model:
        for name, values in written.values.items():
            matrix = model.matrices[name]
            assert matrix.scheme == Scheme(8, None, True, "int8_per_token", "float16")
            np.testing.assert_array_equal(model.read(name), values)
            codes = matrix.codes(slice(0, len(values)))
            np.testing.assert_array_equal(codes.codes.astype(int) - 128, written.codes[name])
            np.testing.assert_array_equal(codes.dequantize(), values)
        assert model.notices == ()


@pytest.mark.parametrize(
    ("weights", "inputs"),
    [
        ({"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "strategy": "tensor", "dynamic": False}),
        ({"num_bits": 8, "strategy": "channel"}, {**PER_TOKEN, "symmetric": False}),
        ({"num_bits": 8, "strategy": "channel", "symmetric": False}, PER_TOKEN),
        ({"num_bits": 8, "strategy": "group", "group_size": 32}, PER_TOKEN),
        ({"num_bits": 4, "strategy": "group", "group_size": 32}, PER_TOKEN),
        ({"num_bits": 6, "strategy": "channel"}, PER_TOKEN),
    ],
)
def test_other_inputs_stay_float_and_that_is_told(
    tmp_path: Path, weights: dict[str, Any], inputs: dict[str, Any]
) -> None:  # fmt: skip
    written = write(tmp_path / "m", "int-quantized", weights, inputs)
    edit_tensors(tmp_path / "m", lambda tensors: tensors.update({f"{QUERY}.input_scale": torch.tensor([0.1])}))
    with open_float_model(tmp_path / "m") as model:
        told = [(notice.code, notice.count) for notice in model.notices]
        assert told == ([] if weights["num_bits"] == 6 else [("inputs-not-rounded", 14)])
        for name, values in written.values.items():
            np.testing.assert_array_equal(model.read(name), values)
            scheme = model.matrices[name].scheme
            assert scheme is not None
            assert scheme.bits == (4 if weights["num_bits"] == 4 else 8)
            np.testing.assert_array_equal(model.matrices[name].codes(slice(2, 40)).dequantize(), values[2:40])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "strategy", [{"strategy": "tensor"}, {"strategy": "channel"}, {"strategy": "block", "block_structure": [32, 32]}]
)
def test_float8(tmp_path: Path, strategy: dict[str, Any], dtype: torch.dtype) -> None:
    weights = {"num_bits": 8, "type": "float", "symmetric": True, **strategy}
    inputs = {**PER_TOKEN, "type": "float"}
    written = write(tmp_path / "m", "float-quantized", weights, inputs, dtype)
    with open_float_model(tmp_path / "m") as model:
        for name, values in written.values.items():
            np.testing.assert_array_equal(model.read(name), values)
            np.testing.assert_array_equal(model.read(name, slice(31, 47)), values[31:47])
            assert model.matrices[name].holds_floats
        assert [(notice.code, notice.count) for notice in model.notices] == [("inputs-not-rounded", 14)]


def group(targets: list[str], bits: int, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    weights = QuantizationArgs(num_bits=bits, strategy="channel").model_dump(mode="json")
    return {"targets": targets, "weights": weights, "input_activations": inputs}


@pytest.mark.parametrize(
    ("targets", "with_inputs"),
    [
        ([QUERY], [QUERY]),
        (["re:.*q_proj$"], [QUERY, QUERY.replace("0", "1")]),
        (
            [r"re:model\.layers\.\d+\.self_attn\.(q|k)_proj"],
            [QUERY, QUERY.replace("0", "1"), QUERY.replace("q_", "k_")],
        ),
        ([r"re:.*layers\.[1-9][0-9]*\..*"], [QUERY.replace("0", "1")]),
        (["re:q_proj"], []),  # from the beginning of the name
    ],
)
def test_groups_that_differ(tmp_path: Path, targets: list[str], with_inputs: list[str]) -> None:
    write(tmp_path / "m", "int-quantized", {"num_bits": 8, "strategy": "channel"})
    groups = {"group_0": group(["Linear"], 8), "group_1": group(targets, 8, PER_TOKEN)}
    settings = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}
    edit_config(tmp_path / "m", quantization_config=settings)
    with open_float_model(tmp_path / "m") as model:
        for module in (QUERY, QUERY.replace("0", "1"), QUERY.replace("q_", "k_"), QUERY.replace("q_", "v_")):
            scheme = model.matrices[f"{module}.weight"].scheme
            assert scheme is not None
            assert (scheme.activations == "int8_per_token") == (module in with_inputs), module


@pytest.mark.parametrize("pattern", ["re:(a+)+$", "re:.*.*.*.*.*q", "re:(?!lm_head).*", "re:(q", "re:" + "a" * 3000])
def test_patterns_that_may_take_for_ever_are_refused(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "m", "int-quantized", {"num_bits": 8, "strategy": "channel"})
    groups = {"group_0": group([pattern], 8), "group_1": group(["Linear"], 8, PER_TOKEN)}
    edit_config(tmp_path / "m", quantization_config={"quant_method": "compressed-tensors", "config_groups": groups})
    with pytest.raises(InputError, match=r"config\.json: target .*: not a simple pattern; start from the original"):
        open_float_model(tmp_path / "m")


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(format="nvfp4-pack-quantized"), "format 'nvfp4-pack-quantized' of compr"),
        (lambda s: s.update(format=["pack-quantized"]), "format .* is not read"),
        (lambda s: s.update(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config: sparse or rotated"),
        (lambda s: s.update(transform_config={"config_groups": {"R1": {}}}), "transform_config: sparse or rotated"),
        (lambda s: s.update(config_groups=[]), r"config_groups \[\]: expected an object"),
        (lambda s: s.update(config_groups={"W8A8": ["Linear"]}), "config_groups.'W8A8': expected an object"),
        (lambda s: s.update(config_groups={}), "no group of int weights, as this one is"),
        (lambda s: s["config_groups"]["group_0"].update(weights=None), "no group of int weights"),
        (lambda s: s["config_groups"]["group_0"].update(weights=[4]), "weights .*: expected an object"),
        (lambda s: s["config_groups"]["group_0"].update(targets="Linear"), "targets 'Linear': expected a list"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(num_bits="4"), "weights of '4' bits"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(num_bits=4, type="float"), "weights of 4 bits"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(strategy="block"), "block_structure None: expected"),
        (lambda s: s["config_groups"]["group_0"].update(format="marlin-24"), "format 'marlin-24'"),
    ],
)  # fmt: skip
def test_settings_that_are_not_read(tmp_path: Path, change: Change, message: str) -> None:
    write(tmp_path / "m", "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32})

    def edit(settings: dict[str, Any]) -> dict[str, Any]:
        change(settings)
        return settings

    raw = read_json_object(tmp_path / "m" / "config.json")
    edit_config(tmp_path / "m", quantization_config=edit(raw["quantization_config"]))
    with pytest.raises(InputError, match=rf"config\.json.*{message}"):
        open_float_model(tmp_path / "m")


def part(name: str, tensor: torch.Tensor | None) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop(f"{QUERY}.{name}", None)
        if tensor is not None:
            tensors[f"{QUERY}.{name}"] = tensor

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (part("weight_scale", None), "q_proj.weight_scale.*missing; the checkpoint is incomplete"),
        (part("weight_shape", None), "q_proj.weight_shape.*missing"),
        (part("weight_shape", torch.tensor([64, 128])), r"q_proj.weight_shape\): not \[128, 64\], which config"),
        (part("weight_shape", torch.ones(3, dtype=torch.int64)), r"q_proj.weight_shape\): shape \[3\]"),
        (part("weight_packed", torch.zeros(128, 7, dtype=torch.int32)), "q_proj.weight_packed.*no codes of 2, 4 or"),
        (part("weight_packed", torch.zeros(127, 8, dtype=torch.int32)), "q_proj.weight_packed.*shape"),
        (part("weight_packed", torch.zeros(128, 8, dtype=torch.uint8)), "q_proj.weight_packed.*dtype U8"),
        (part("weight_packed", torch.zeros(8, dtype=torch.int32)), "q_proj.weight_packed.*shape"),
        (part("weight_scale", torch.ones(128, 3)), "q_proj.weight_scale.*3 groups do not divide the width 64"),
        (part("weight_scale", torch.ones(128, 0)), "q_proj.weight_scale.*0 groups"),
        (part("weight_scale", torch.ones(127, 2)), "q_proj.weight_scale.*shape"),
        (part("weight_scale", torch.full((128, 2), torch.nan)), "q_proj.weight_scale.*NaN"),
        (part("weight_scale", torch.ones(128, 2).int()), "q_proj.weight_scale.*dtype I32"),
        (part("weight_zero_point", torch.zeros(15, 2, dtype=torch.int32)), "q_proj.weight_zero_point.*shape"),
        (part("weight_zero_point", torch.zeros(128, 2)), "q_proj.weight_zero_point.*dtype F32"),
        (part("weight_g_idx", torch.full((64,), 2, dtype=torch.int32)), "q_proj.weight_g_idx.*a group that scales"),
        (part("weight_g_idx", torch.zeros(3, dtype=torch.int32)), "q_proj.weight_g_idx.*shape"),
        (part("weight_global", torch.zeros(3)), "1 tensors do not belong"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_by_the_tensors_name(
    tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}
    write(tmp_path / "m", "pack-quantized", weights)
    edit_tensors(tmp_path / "m", edit)
    with pytest.raises(InputError, match=message), open_float_model(tmp_path / "m") as model:
        model.read(f"{QUERY}.weight")


def test_bytes_that_are_no_codes(tmp_path: Path) -> None:
    write(tmp_path / "m", "int-quantized", {"num_bits": 4, "strategy": "channel"})
    edit_tensors(tmp_path / "m", lambda tensors: tensors[f"{QUERY}.weight"].fill_(8))
    with open_float_model(tmp_path / "m") as model, pytest.raises(InputError, match="outside the range of 4 bits"):
        model.read(f"{QUERY}.weight")


def test_zero_points_in_bytes_and_scales_of_a_cache(tmp_path: Path) -> None:
    """As earlier versions of the library store zero points."""
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32}
    written = write(tmp_path / "m", "pack-quantized", weights)
    zero_points = torch.ones(128, 2, dtype=torch.int8)
    scale = torch.ones(1)
    edit_tensors(
        tmp_path / "m",
        lambda tensors: tensors.update(
            {f"{QUERY}.weight_zero_point": zero_points, "model.layers.1.self_attn.k_scale": scale}
        ),
    )
    with open_float_model(tmp_path / "m") as model:
        matrix = model.matrices[f"{QUERY}.weight"]
        assert matrix.scheme is not None
        assert not matrix.scheme.symmetric
        shift = written.values[f"{QUERY}.weight"] - model.read(f"{QUERY}.weight")
        assert (shift > 0).all()  # every code minus one
        assert [notice.code for notice in model.notices] == ["cache-scales-ignored"]


def test_an_embedding_in_bytes(tmp_path: Path) -> None:
    write(tmp_path / "m", "int-quantized", {"num_bits": 8, "strategy": "channel"}, PER_TOKEN)
    codes = torch.randint(-128, 128, (320, 64), dtype=torch.int8)
    edit_tensors(
        tmp_path / "m", lambda tensors: tensors.update({EMBEDDING: codes, f"{EMBEDDING}_scale": torch.ones(320, 1)})
    )
    with open_float_model(tmp_path / "m") as model:
        np.testing.assert_array_equal(model.read(EMBEDDING), codes.float().numpy())
        assert model.matrices[EMBEDDING].scheme == Scheme(8, 64, scales="float16")
