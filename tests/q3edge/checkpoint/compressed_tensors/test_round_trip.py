"""QDIR, exact: what is written is read again, in the very bytes of the compressed-tensors library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.checkpoint import Checkpoint, open_quantized_model
from q3edge.checkpoint.bit_packing import pack_words
from q3edge.checkpoint.compressed_tensors import QuantizedWriter
from q3edge.quantization.scales import storable_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.storage.json_files import read_json_object
from tests.helpers.quantized_checkpoints import UP, W8A8, quantize, schemes_for

DOWN = "model.layers.0.mlp.down_proj.weight"
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


weight_only = st.builds(
    Scheme,
    st.sampled_from([2, 4, 8]),
    st.sampled_from([16, 32, 64]),
    st.booleans(),
    scales=st.sampled_from(["int8", "float16"]),
)


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
