"""QDIR: exact round trips, the bytes of the compressed-tensors library, and the logits transformers gets from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compressed_tensors
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.checkpoint import Checkpoint, open_float_model, open_quantized_model
from q3edge.checkpoint.compressed_tensors import QuantizedWriter
from q3edge.checkpoint.compressed_tensors.layout import pack_words
from q3edge.checkpoint.compressed_tensors.settings import quantization_config, read_schemes
from q3edge.errors import InputError, UsageError
from q3edge.formats import FORMATS
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scales import storable_scales
from q3edge.quantization.scheme import GROUP_SIZES, Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.storage.json_files import read_json_object
from tests.helpers.models import write_checkpoint

Schemes = dict[str, Scheme | None]
UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
W8A8 = Scheme(8, None, activations="int8_per_token")
FILE_FIXTURE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_tensor(shape: tuple[int, int], scheme: Scheme, seed: int) -> QuantizedTensor:
    """Any codes, scales and zero points that the scheme allows."""
    random = np.random.default_rng(seed)
    groups = (shape[0], scheme.groups(shape[1]))
    codes = random.integers(0, scheme.max_code, shape, np.uint8, endpoint=True)
    scales = storable_scales(random.normal(0, 0.02, groups).astype(np.float32), scheme).astype(np.float16)
    zero_points = None if scheme.symmetric else random.integers(0, scheme.max_code, groups, np.uint8, endpoint=True)
    return QuantizedTensor(codes, scales, zero_points, scheme)


def assert_same(found: QuantizedTensor, expected: QuantizedTensor) -> None:
    assert found.scheme == expected.scheme
    assert_array_equal(found.codes, expected.codes, strict=True)
    assert_array_equal(found.scales, expected.scales, strict=True)
    assert (found.zero_points is None) == (expected.zero_points is None)
    if found.zero_points is not None and expected.zero_points is not None:
        assert_array_equal(found.zero_points, expected.zero_points, strict=True)


def quantize(source: Checkpoint, folder: Path, schemes: Schemes, block: int = 32) -> dict[str, QuantizedTensor]:
    """Write QDIR with plain rounding of `source` in blocks of rows; returns what was written."""
    folder.mkdir()
    raw = read_json_object(source.folder / "config.json")
    written = {}
    with QuantizedWriter(folder, raw, schemes, {name: source.dtype(name) for name in source.names()}) as writer:
        for name in source.names():
            scheme = schemes[name]
            if scheme is None:
                writer.add_float(name, source.read(name))
                continue
            tensor = written[name] = naive_quantize(source.read(name), scheme)
            for start in range(0, tensor.shape[0], block):
                writer.add(name, tensor.rows(slice(start, start + block)))
    return written


def naive_quantize(weights: np.ndarray[Any, np.dtype[np.float32]], scheme: Scheme) -> QuantizedTensor:
    """Round to nearest over the full range of each group."""
    rows, width = weights.shape
    blocks = weights.reshape(rows, scheme.groups(width), -1)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    if scheme.symmetric:
        scales = np.maximum(-low, high) / (scheme.implicit_zero_point - 1)
        scales[:, ::2] *= -1  # scales may have either sign
        zero_points = np.full(scales.shape, scheme.implicit_zero_point, np.float32)
    else:
        scales = (high - low) / scheme.max_code
        zero_points = np.clip(np.rint(-low / scales), 0, scheme.max_code)
    scales = storable_scales(scales, scheme)
    codes = np.rint(blocks / scales[:, :, None]) + zero_points[:, :, None]
    codes = np.clip(codes, 0, scheme.max_code).astype(np.uint8).reshape(rows, width)
    zeros = None if scheme.symmetric else zero_points.astype(np.uint8)
    return QuantizedTensor(codes, scales.astype(np.float16), zeros, scheme)


def schemes_for(config: Qwen3Config, linear: Scheme | None, table: Scheme | None) -> Schemes:
    """`linear` for every projection, `table` for the embedding and the head, norms float."""
    matrices = {n: (table if n in (EMBEDDING, LM_HEAD) else linear) for n in tensor_shapes(config)}
    return {name: scheme if len(tensor_shapes(config)[name]) == 2 else None for name, scheme in matrices.items()}


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    """A tied float model."""
    return open_float_model(write_checkpoint(tmp_path / "float"))


@pytest.fixture
def qdir(source: Checkpoint, tmp_path: Path) -> Path:
    """`source` in asymmetric int4 with an 8-bit table."""
    quantize(source, tmp_path / "q", schemes_for(source.config, Scheme(4, 32, False), Scheme(8, 32)))
    return tmp_path / "q"


weight_only = st.builds(
    Scheme,
    st.sampled_from([2, 4, 8]),
    st.sampled_from([16, 32, 64]),
    st.booleans(),
    scales=st.sampled_from(["int8", "float16"]),
)


# --- exactness ---


@FILE_FIXTURE
@given(data=st.data())
def test_round_trip_is_exact_for_any_scheme_shape_and_row_range(tmp_path: Path, data: st.DataObject) -> None:
    linear, table = data.draw(weight_only | st.just(W8A8)), data.draw(weight_only)
    rows = data.draw(st.integers(1, 150))
    raw = {
        "model_type": "qwen3", "vocab_size": rows, "hidden_size": 64, "intermediate_size": rows,
        "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 32, "max_position_embeddings": 9,
        "tie_word_embeddings": data.draw(st.booleans()),
    }  # fmt: skip
    config = Qwen3Config.from_dict(raw)
    shapes = tensor_shapes(config)
    schemes = schemes_for(config, linear, table) | {DOWN: None}
    seed = data.draw(st.integers(0, 99))
    tensors = {n: random_tensor((shapes[n][0], 64), s, seed) for n, s in schemes.items() if s is not None}
    for file in tmp_path.iterdir():
        file.unlink()
    with QuantizedWriter(tmp_path, raw, schemes, dict.fromkeys(shapes, "F32")) as writer:
        for name, tensor in tensors.items():
            block = 32 * data.draw(st.integers(1, 5))
            for start in range(0, tensor.shape[0], block):
                writer.add(name, tensor.rows(slice(start, start + block)))
        for name in shapes.keys() - tensors.keys():
            writer.add_float(name, np.ones(shapes[name], np.float32))
    with open_quantized_model(tmp_path) as checkpoint:
        assert {name: checkpoint.scheme(name) for name in checkpoint.names()} == schemes
        part = slice(*sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows)))))
        for name, tensor in tensors.items():
            assert_same(checkpoint.read_quantized(name), tensor)
            assert_same(checkpoint.read_quantized(name, part), tensor.rows(part))
            assert_array_equal(checkpoint.read(name, part), tensor.dequantize()[part], strict=True)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("width", [1, 5, 16, 33, 100])
def test_packed_words_are_those_of_the_library(bits: int, width: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (7, width), np.uint8)
    signed = torch.from_numpy(codes.astype(np.int16) - (1 << (bits - 1))).to(torch.int8)
    assert_array_equal(pack_words(codes, bits), pack_to_int32(signed, bits).numpy(), strict=True)
    along_rows = np.ascontiguousarray(pack_words(np.ascontiguousarray(codes.T), bits).T)
    assert_array_equal(along_rows, pack_to_int32(signed, bits, packed_dim=0).numpy(), strict=True)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_every_group_size_keeps_whole_words(group_size: int) -> None:
    config = Qwen3Config.from_dict({
        "model_type": "qwen3", "vocab_size": 8, "hidden_size": 768, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 9, "tie_word_embeddings": True,
    })  # fmt: skip
    assert read_schemes(
        quantization_config(schemes_for(config, Scheme(2, group_size), None), True), tensor_shapes(config), "c"
    ) == schemes_for(config, Scheme(2, group_size), None)


def test_float_tensors_keep_their_dtype_and_values(source: Checkpoint, qdir: Path) -> None:
    checkpoint = open_quantized_model(qdir)
    norms = [name for name in source.names() if checkpoint.scheme(name) is None]
    assert len(norms) == 9
    for name in norms:
        assert_array_equal(checkpoint.read(name), source.read(name), strict=True)
    assert (qdir / "model.safetensors").stat().st_size < source.stored_bytes / 2
    assert checkpoint.digest() != source.digest()
    with pytest.raises(TypeError):
        checkpoint.read_quantized(norms[0])


def test_writing_twice_gives_the_same_bytes(source: Checkpoint, qdir: Path, tmp_path: Path) -> None:
    schemes = {name: open_quantized_model(qdir).scheme(name) for name in source.names()}
    quantize(source, tmp_path / "again", schemes, block=320)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (qdir / name).read_bytes()


# --- transformers ---

# compressed-tensors 0.18-0.20 prepares no module for packed zero points (compress on the meta device), so transformers
# refuses such files, the library's own included. Strict: the day it works, this says to raise the bound.
CANNOT_LOAD_ZERO_POINTS = Version(compressed_tensors.__version__) >= Version("0.18")


def case(linear: Scheme, table: Scheme | None, tied: bool) -> Any:
    """A test case; expected to fail where the installed library cannot load its packed zero points."""
    packed = [linear] if tied or table is None else [linear, table]
    broken = CANNOT_LOAD_ZERO_POINTS and not all(scheme.symmetric for scheme in packed)
    marks = (
        [pytest.mark.xfail(strict=True, raises=RuntimeError, reason="bug of the installed library")] if broken else []
    )
    label = f"{linear.label()}/{table.label() if table else 'float'}/{'tied' if tied else 'untied'}"
    return pytest.param(linear, table, tied, marks=marks, id=label)


@pytest.mark.parametrize(
    ("linear", "table", "tied"),
    [
        case(linear, table, tied)
        for tied in (True, False)
        for linear, table in [
            (Scheme(4, 32, symmetric=False), Scheme(8, 32)),
            (Scheme(4, 64), Scheme(8, 32)),
            (Scheme(8, 32), Scheme(8, 32)),
            (Scheme(2, 16), Scheme(4, 16, symmetric=False)),
            (Scheme(8, 64), None),
            (Scheme(4, 32, scales="float16"), Scheme(8, 32, scales="float16")),
        ]
    ],
)
def test_transformers_gives_the_logits_of_dequantize(
    tmp_path: Path, linear: Scheme, table: Scheme | None, tied: bool
) -> None:
    source = open_float_model(write_checkpoint(tmp_path / "float", tie_word_embeddings=tied))
    written = quantize(source, tmp_path / "q", schemes_for(source.config, linear, table))
    quantized = Qwen3ForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32).eval()
    reference = Qwen3ForCausalLM.from_pretrained(tmp_path / "float", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, tensor in written.items():
            reference.get_parameter(name).copy_(torch.from_numpy(tensor.dequantize()))
        ids = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(0))
        expected, found = reference(ids).logits, quantized(ids).logits
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert expected.std() > 0.1


def test_transformers_decodes_w8a8_weights_exactly(tmp_path: Path) -> None:
    source = open_float_model(write_checkpoint(tmp_path / "float"))
    written = quantize(source, tmp_path / "q", schemes_for(source.config, W8A8, Scheme(8, 32)))
    model = Qwen3ForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.arange(10)[None]).logits
    assert torch.isfinite(logits).all()
    assert_array_equal(model.get_parameter(UP).detach().numpy(), written[UP].dequantize())
    activations = model.get_submodule(UP.removesuffix(".weight")).quantization_scheme.input_activations
    assert (activations.num_bits, activations.strategy, activations.dynamic) == (8, "token", True)


# --- quantization_config ---


@pytest.mark.parametrize("format_name", FORMATS)
def test_recipes_survive_as_settings_the_library_accepts(source: Checkpoint, format_name: str) -> None:
    schemes = Recipe.for_format(format_name).resolve(source.config)
    written = json.loads(json.dumps(quantization_config(schemes, tied=True)))
    QuantizationConfig.model_validate(written)
    assert read_schemes(written, schemes, "config.json") == schemes


def test_alike_layers_share_a_pattern_and_exceptions_are_named(source: Checkpoint) -> None:
    schemes = schemes_for(source.config, Scheme(4, 32), None) | {UP: Scheme(8, 32)}
    groups = quantization_config(schemes, tied=True)["config_groups"]
    targets = [group["targets"] for group in groups.values()]
    assert r"re:model\.layers\.\d+\.self_attn\.q_proj$" in targets[0]
    assert "model.layers.1.mlp.up_proj" in targets[0]
    assert targets[1] == ["model.layers.0.mlp.up_proj"]
    assert read_schemes(quantization_config(schemes, tied=True), schemes, "config.json") == schemes


def test_experts_share_a_pattern_over_layers_and_numbers() -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.up_proj.weight" for i in range(3) for e in range(12)]
    settings_written = quantization_config(dict.fromkeys(names, Scheme(4, 32)), tied=False)
    assert settings_written["config_groups"]["group_0"]["targets"] == [
        r"re:model\.layers\.\d+\.mlp\.experts\.\d+\.up_proj$"
    ]


def test_what_the_layout_cannot_say_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    raw = read_json_object(source.folder / "config.json")
    dtypes = {name: source.dtype(name) for name in source.names()}
    with pytest.raises(UsageError, match=r"model\.embed_tokens\.weight: int8_per_token activations do not apply"):
        QuantizedWriter(tmp_path, raw, schemes_for(source.config, W8A8, W8A8), dtypes)
    with pytest.raises(UsageError, match="quantizes no tensor"):
        QuantizedWriter(tmp_path, raw, schemes_for(source.config, None, None), dtypes)
    with pytest.raises(UsageError, match="group size 256 does not divide the width 64"):
        QuantizedWriter(tmp_path, raw, schemes_for(source.config, Scheme(4, 256), None), dtypes)


def test_blocks_that_do_not_fit_are_programming_errors(source: Checkpoint, tmp_path: Path) -> None:
    raw, scheme = read_json_object(source.folder / "config.json"), Scheme(4, 32)
    dtypes = {name: source.dtype(name) for name in source.names()}
    writer = QuantizedWriter(tmp_path, raw, schemes_for(source.config, scheme, None), dtypes)
    with pytest.raises(ValueError, match="does not fit"):
        writer.add(UP, random_tensor((32, 64), Scheme(8, 32), 0))
    writer.add(UP, random_tensor((33, 64), scheme, 0))
    with pytest.raises(ValueError, match="multiple of 32 rows"):
        writer.add(UP, random_tensor((32, 64), scheme, 0))
    with pytest.raises(ValueError, match="incomplete"):
        writer.close()
    assert not (tmp_path / "config.json").exists()


# --- damaged folders ---


def change_settings(qdir: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((qdir / "config.json").read_text())
    change(raw["quantization_config"])
    (qdir / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(quant_method="gptq"), "quantization_config (gptq): the checkpoint is quantized already"),
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
