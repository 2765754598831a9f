"""Products of packed matrices by every instruction set of this CPU, forced one by one."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from q3edge.kernels.library import Library, MatrixShape, aligned_bytes, library
from tests.helpers.packed import RandomMatrix, rounded

FOUND = library()
SETS = FOUND.instruction_sets if FOUND else ()
pytestmark = pytest.mark.skipif(FOUND is None, reason="the kernels were not built here")
EPSILON = float(np.finfo(np.float32).eps) / 2
QUICK = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@st.composite
def shapes(draw: st.DrawFn) -> MatrixShape:
    """Shapes with odd numbers of rows and every size of group."""
    group = draw(st.sampled_from([16, 32, 64, 128, 256, 8, 24, 200]))
    return MatrixShape(
        rows=draw(st.integers(1, 100)),
        width=group * draw(st.integers(1, 9)),
        group=group,
        bits=draw(st.sampled_from([4, 8])),
        symmetric=draw(st.booleans()),
        float32_scales=draw(st.booleans()),
    )


def built() -> Library:
    assert FOUND is not None
    return FOUND


def product(name: str, matrix: RandomMatrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return built().multiply(name, matrix.shape, matrix.packed(built()), x)


def terms(matrix: RandomMatrix, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What each group adds to the results, of activations rounded alike: float64 [M, N, K/G]."""
    codes, scales = rounded(x, matrix.shape.group)
    whole = np.einsum("mgk,ngk->mng", codes, matrix.whole()).astype(np.float64)
    added: NDArray[np.float64] = whole * matrix.scales.astype(np.float64) * scales.astype(np.float64)[:, None]
    return added


@pytest.mark.parametrize("name", SETS)
@QUICK
@given(shape=shapes(), rows=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_results_are_within_float32s_error_of_float64s(name: str, shape: MatrixShape, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, x = RandomMatrix.of(shape, rng), rng.normal(size=(rows, shape.width)).astype(np.float32)
    added = terms(matrix, x)
    # Each term and each sum rounds: (groups + 3) times half an epsilon of what is added.
    bound = (added.shape[-1] + 3) * EPSILON * np.abs(added).sum(-1)
    assert (np.abs(product(name, matrix, x) - added.sum(-1)) <= bound).all()


@pytest.mark.parametrize("name", SETS)
@QUICK
@given(shape=shapes(), rows=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_whole_numbers_are_exact(name: str, shape: MatrixShape, rows: int, seed: int) -> None:
    """The same bits from every set: with scales that are powers of two only the sums over groups round, in order."""
    rng = np.random.default_rng(seed)
    matrix = RandomMatrix.of(shape, rng, exact_scales=True)
    x = rng.integers(-127, 128, (rows, shape.width)).astype(np.float32)
    x[:, :: shape.group] = 127 * rng.choice([-1, 1], (rows, shape.width // shape.group))  # scales are 1
    expected = np.zeros((rows, shape.rows), np.float32)
    for term in np.moveaxis(terms(matrix, x), -1, 0):
        expected += term.astype(np.float32)
    np.testing.assert_array_equal(product(name, matrix, x), expected)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("rows", [2, 20])
def test_the_largest_sums_do_not_saturate(name: str, bits: int, low: bool, rows: int) -> None:
    shape = MatrixShape(rows=17, width=512, group=256, bits=bits, symmetric=False, float32_scales=True)
    top = 0 if low else (1 << bits) - 1
    matrix = RandomMatrix(
        shape,
        np.full((17, 512), top, np.uint8),
        np.ones((17, 2), np.float32),
        np.full((17, 2), (1 << bits) - 1 - top, np.uint8),
    )
    signs = np.resize([1.0, -1.0], (rows, 1))
    x = np.repeat(127 * signs, 512, 1).astype(np.float32)
    expected = 512 * 127 * ((1 << bits) - 1) * signs * (-1 if low else 1)
    np.testing.assert_array_equal(product(name, matrix, x), np.repeat(expected, 17, 1))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_rows_result_does_not_depend_on_other_rows(name: str, bits: int) -> None:
    shape = MatrixShape(rows=75, width=384, group=64, bits=bits, symmetric=False, float32_scales=False)
    rng = np.random.default_rng(3)
    matrix, x = RandomMatrix.of(shape, rng), rng.normal(size=(300, 384)).astype(np.float32)
    alone = np.concatenate([product(name, matrix, row[None]) for row in x])
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33, 70, 300):
        np.testing.assert_array_equal(product(name, matrix, x[-rows:]), alone[-rows:])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_stays_in_its_row_and_is_not_hidden(name: str, value: float, bits: int) -> None:
    shape = MatrixShape(rows=19, width=128, group=32, bits=bits, symmetric=True, float32_scales=False)
    rng = np.random.default_rng(4)
    matrix, x = RandomMatrix.of(shape, rng), rng.normal(size=(11, 128)).astype(np.float32)
    usual = product(name, matrix, x)
    for row in range(len(x)):
        changed = x.copy()
        changed[row, rng.integers(128)] = value
        found = product(name, matrix, changed)
        assert np.isnan(found[row]).all()
        np.testing.assert_array_equal(np.delete(found, row, 0), np.delete(usual, row, 0))


@pytest.mark.parametrize("name", SETS)
def test_rows_of_zeros_and_of_the_smallest_numbers_are_zero(name: str) -> None:
    shape = MatrixShape(rows=20, width=64, group=32, bits=4, symmetric=False, float32_scales=False)
    matrix = RandomMatrix.of(shape, np.random.default_rng(5))
    x = np.array([[0.0], [-0.0], [1e-45], [1e-38], [-1e-35]], np.float32).repeat(64, 1)
    np.testing.assert_array_equal(product(name, matrix, x), np.zeros((5, 20)))


@pytest.mark.parametrize("name", SETS)
@QUICK
@given(shape=shapes(), rows=st.integers(1, 19), seed=st.integers(0, 2**32 - 1))
def test_nothing_is_written_beside_the_result(name: str, shape: MatrixShape, rows: int, seed: int) -> None:
    """And none of the inputs is changed."""
    rng = np.random.default_rng(seed)
    matrix = RandomMatrix.of(shape, rng)
    native = ctypes.CDLL(str(built().path))
    native.q3edge_product_scratch.restype = ctypes.c_size_t
    numbers, count = shape.numbers(), ctypes.c_size_t(rows)
    x = rng.normal(size=(rows, shape.width)).astype(np.float32)
    inputs = {"packed": matrix.packed(built()).tobytes(), "x": x.tobytes()}
    outputs = {"y": rows * shape.rows * 4, "scratch": native.q3edge_product_scratch(numbers, count)}

    memory, places, end = aligned_bytes(sum(map(len, inputs.values())) + sum(outputs.values()) + 2048), {}, 256
    memory[:] = 0xA5
    for key, size in ({key: len(content) for key, content in inputs.items()} | outputs).items():
        places[key] = slice(end, end + size)
        end += -(-size // 64) * 64 + 256
    for key, content in inputs.items():
        memory[places[key]] = np.frombuffer(content, np.uint8)
    expected = memory.copy()
    address = {key: ctypes.c_void_p(memory[place].ctypes.data) for key, place in places.items()}
    number = ctypes.c_size_t(SETS.index(name))
    packed, activations, y, scratch = (address[key] for key in ("packed", "x", "y", "scratch"))
    native.q3edge_multiply(number, numbers, packed, activations, count, y, scratch)
    for key in outputs:
        expected[places[key]] = memory[places[key]]
    np.testing.assert_array_equal(memory, expected)
    np.testing.assert_array_equal(memory[places["y"]], np.frombuffer(product(name, matrix, x).tobytes(), np.uint8))


@QUICK
@given(shape=shapes(), seed=st.integers(0, 2**32 - 1))
def test_packing_is_as_the_layout_says(shape: MatrixShape, seed: int) -> None:
    matrix = RandomMatrix.of(shape, np.random.default_rng(seed))
    np.testing.assert_array_equal(matrix.packed(built()), naively_packed(matrix))


def naively_packed(matrix: RandomMatrix) -> NDArray[np.uint8]:
    """As native/layout.h describes it."""
    shape, tiles, groups = matrix.shape, -(-matrix.shape.rows // 16), matrix.scales.shape[1]

    def by_tile(values: NDArray[Any], each: int) -> NDArray[Any]:
        """[N, L] -> [tiles, L / each, 16, each]."""
        padded = np.pad(values, ((0, tiles * 16 - shape.rows), (0, 0)))
        return padded.reshape(tiles, 16, -1, each).transpose(0, 2, 1, 3)

    def part(values: NDArray[Any]) -> NDArray[np.uint8]:
        """Bytes of each tile, up to a multiple of 64."""
        flat = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8).reshape(tiles, -1)
        return np.pad(flat, ((0, 0), (0, -flat.shape[1] % 64)))

    codes = by_tile(matrix.codes, 4)
    if shape.bits == 4:
        codes = codes[:, 0::2] | codes[:, 1::2] << 4
    codes = codes.reshape(tiles, groups, -1)
    scales = by_tile(matrix.scales.astype("<f4" if shape.float32_scales else "<f2"), 1)
    points = by_tile(matrix.zero_points, 1)
    parts = []
    for span in (slice(first, first + 4) for first in range(0, groups, 4)):
        parts += [part(scales[:, span]), *([] if shape.symmetric else [part(points[:, span])]), part(codes[:, span])]
    return np.concatenate(parts, 1).ravel()


def test_every_half_is_kept_and_multiplied_exactly() -> None:
    """All finite float16 numbers as scales: through packing, and through each set's own conversion."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    values = halves.astype(np.float32)
    assert built().are_float16(values)
    shape = MatrixShape(rows=len(halves), width=8, group=8, bits=8, symmetric=True, float32_scales=False)
    codes = np.full((len(halves), 8), 128, np.uint8)
    codes[:, 0] = 129
    matrix = RandomMatrix(shape, codes, values[:, None], np.full((len(halves), 1), 128, np.uint8))
    packed = matrix.packed(built())
    np.testing.assert_array_equal(packed, naively_packed(matrix))
    x = np.zeros((1, 8), np.float32)
    x[0, 0] = 127  # times 1, in codes of scale 1
    for name in SETS:
        found = built().multiply(name, shape, packed, x)[0]
        np.testing.assert_array_equal(found, values * np.float32(127), err_msg=name)


@pytest.mark.parametrize(
    "value", [1 + 2**-11, 65505.0, 1e6, 2**-25, 3 * 2**-25, np.inf, np.nan, np.nextafter(np.float32(1), np.float32(2))]
)
def test_what_float16_does_not_have_is_told(value: float) -> None:
    assert not built().are_float16(np.array([1.0, value, 2.0], np.float32))


@pytest.mark.parametrize("group", [16, 32, 128, 256])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_onnxruntimes_own_operator_agrees(group: int, bits: int, symmetric: bool) -> None:
    """At accuracy level 4 onnxruntime rounds activations too: both are as far from what is exact, and no farther apart.

    On x86-64 the codes are the same and results differ by 2e-7 of their size; some of its kernels on Arm round whole
    rows, so nothing closer is asked for.
    """
    rng = np.random.default_rng(group + bits)
    shape = MatrixShape(rows=96, width=512, group=group, bits=bits, symmetric=symmetric, float32_scales=True)
    matrix, x = RandomMatrix.of(shape, rng), rng.normal(size=(33, 512)).astype(np.float32)
    weights = matrix.whole() * matrix.scales[..., None].astype(np.float64)
    exact = x.astype(np.float64) @ weights.reshape(96, 512).T
    theirs = by_onnxruntime(matrix, x)
    size = np.sqrt(np.mean(exact**2))
    error = np.sqrt(np.mean((theirs - exact) ** 2)) / size
    for name in SETS:
        ours = product(name, matrix, x)
        assert np.sqrt(np.mean((ours - exact) ** 2)) / size < 1.1 * error + 1e-6
        assert np.sqrt(np.mean((ours - theirs) ** 2)) / size < 1.5 * error + 1e-6


def by_onnxruntime(matrix: RandomMatrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The product by MatMulNBits at accuracy level 4."""
    shape = matrix.shape
    points = matrix.stored_zero_points()
    tensors: dict[str, NDArray[Any]] = {"codes": matrix.stored_codes(), "scales": matrix.scales}
    if points is not None:
        tensors["points"] = points
    node = helper.make_node(
        "MatMulNBits",
        ["x", *tensors],
        ["y"],
        domain="com.microsoft",
        N=shape.rows,
        K=shape.width,
        bits=shape.bits,
        block_size=shape.group,
        accuracy_level=4,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, shape.width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, shape.rows])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return found
