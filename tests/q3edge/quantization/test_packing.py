"""Packing is exact: onnxruntime computes from our bytes the values that `dequantize()` defines, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING
from q3edge.exporters.onnx.builder import GraphBuilder
from q3edge.exporters.onnx.external_data import ExternalData
from q3edge.exporters.onnx.linear import Matrices
from q3edge.quantization.packing import pack_blocks, pack_codes, pack_zero_points
from q3edge.quantization.scheme import GROUP_SIZES, Scales, Scheme
from q3edge.quantization.tensor import QuantizedTensor
from tests.helpers.models import InMemoryWeights, tiny_config
from tests.helpers.onnx_models import random_quantized, session

SCALES: tuple[Scales, ...] = ("int8", "float16")
SCHEMES = [
    Scheme(bits, size, symmetric, scales=scales)
    for scales in SCALES
    for bits in (2, 4, 8)
    for size in GROUP_SIZES
    for symmetric in (True, False)
]


def unpack_naively(packed: NDArray[np.uint8], bits: int, width: int) -> NDArray[np.uint8]:
    """One code at a time, as the schema words it: little-end first."""
    codes = np.zeros((len(packed), width), np.uint8)
    for row in range(len(packed)):
        for column in range(width):
            byte, slot = divmod(column * bits, 8)
            codes[row, column] = (int(packed[row, byte]) >> slot) & ((1 << bits) - 1)
    return codes


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_packed_codes_unpack_to_themselves(bits: int, rows: int, width: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, width)).astype(np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (rows, -(-width * bits // 8))
    np.testing.assert_array_equal(unpack_naively(packed, bits, width), codes)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    assert pack_codes(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]
    assert pack_codes(np.array([[1, 2, 3, 0, 1]], np.uint8), 2).tolist() == [[0b00111001, 0b01]]


def test_blocks_have_the_shape_of_matmulnbits() -> None:
    tensor = random_quantized(3, 96, Scheme(4, 32, symmetric=False), np.random.default_rng(0))
    assert pack_blocks(tensor).shape == (3, 3, 16)
    assert tensor.zero_points is not None
    assert pack_zero_points(tensor.zero_points, 4).shape == (3, 2)


def run_table(
    tensor: QuantizedTensor, level: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """One table in onnxruntime: MatMulNBits of all unit vectors at once, of one by one, and all rows gathered."""
    rows, width = tensor.shape
    config = Qwen3Config.from_dict(tiny_config(vocab_size=rows, hidden_size=width, eos_token_id=0))
    x, ids = ir.val("x", ir.DataType.FLOAT, ["m", width]), ir.val("ids", ir.DataType.INT64, ["b", "s"])
    y, e = ir.val("y", ir.DataType.FLOAT, ["m", None]), ir.val("e", ir.DataType.FLOAT, ["b", "s", width])
    with tempfile.TemporaryDirectory() as folder:
        builder = GraphBuilder()
        with ExternalData(Path(folder) / "weights") as data:
            source = InMemoryWeights(config, {EMBEDDING: tensor})
            matrices = Matrices(builder, source, data, level, lambda _count: None)
            builder.op_into([y], "Identity", matrices.linear(x, EMBEDDING))
            builder.op_into([e], "Identity", matrices.embedding(EMBEDDING, ids))
        assert (Path(folder) / "weights").stat().st_size < tensor.scheme.stored_bytes(rows, width) + 3 * 64
        ir.save(builder.model([x, ids], [y, e], "table"), Path(folder) / "model.onnx")
        run = session(Path(folder) / "model.onnx").run
    units, no_ids = np.eye(width, dtype=np.float32), np.zeros((1, 0), np.int64)
    together = run(["y"], {"x": units, "ids": no_ids})[0].T
    single = np.concatenate([run(["y"], {"x": unit[None], "ids": no_ids})[0] for unit in units]).T
    return together, single, run(["e"], {"x": units[:0], "ids": np.arange(rows)[None]})[0][0]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(SCHEMES), st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0, 1])
)
def test_onnxruntime_reproduces_dequantize(scheme: Scheme, groups: int, rows: int, seed: int, level: int) -> None:
    assert scheme.group_size is not None
    check_table(random_quantized(rows, groups * scheme.group_size, scheme, np.random.default_rng(seed)), level)


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_onnxruntime_reproduces_dequantize_in_every_scheme(scheme: Scheme) -> None:
    assert scheme.group_size is not None
    check_table(random_quantized(37, 3 * scheme.group_size, scheme, np.random.default_rng(0)), level=0)


def check_table(tensor: QuantizedTensor, level: int) -> None:
    expected = tensor.dequantize()
    together, single, gathered = run_table(tensor, level)
    np.testing.assert_array_equal(gathered, expected)
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(single, expected)
