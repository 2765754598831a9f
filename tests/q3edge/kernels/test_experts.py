"""Experts of a layer by every instruction set of this CPU, against numpy and against onnxruntime's operator.

What a row's result is to the last bit, whatever is beside it, is checked in C++ (check_experts.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from q3edge.kernels.library import Library, MatrixShape, aligned_bytes, library
from tests.helpers.packed import RandomMatrix, rounded

FOUND = library()
SETS = FOUND.instruction_sets if FOUND else ()
pytestmark = pytest.mark.skipif(FOUND is None, reason="the kernels were not built here")
EXPERTS, HIDDEN, WIDTH, CHOSEN = 6, 256, 128, 3


@dataclass(frozen=True)
class Layer:
    """Experts: gate and up with the rows of gate first, and down."""

    gate_up: list[RandomMatrix]
    down: list[RandomMatrix]

    @classmethod
    def random(cls, bits: int, group: int, symmetric: bool, seed: int = 0) -> Layer:
        rng = np.random.default_rng(seed)
        shapes = (
            MatrixShape(rows, width, group, bits, symmetric, False)
            for rows, width in ((2 * WIDTH, HIDDEN), (HIDDEN, WIDTH))
        )
        gate_up, down = ([RandomMatrix.of(shape, rng) for _ in range(EXPERTS)] for shape in shapes)
        return cls(gate_up, down)

    def computed(self, name: str, x: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """By our kernels."""
        stacks = (self.gate_up, self.down)
        first, second = (stacked([matrix.packed(built()) for matrix in matrices]) for matrices in stacks)
        shapes = (self.gate_up[0].shape, self.down[0].shape)
        return built().compute_experts(name, shapes, (first, second), x, logits, CHOSEN)

    def expected(self, x: NDArray[np.float32], logits: NDArray[np.float32], exact: bool = False) -> NDArray[np.float64]:
        """By numpy: of activations rounded as the kernels round them, or `exact`."""
        out = np.zeros(x.shape)
        for row, scores in enumerate(logits.astype(np.float64)):
            chosen = sorted(range(EXPERTS), key=lambda e: (-scores[e], -e))[:CHOSEN]
            weights = np.exp(scores[chosen])
            shares = weights / weights.sum()
            for expert, share in zip(chosen, shares, strict=True):
                products = multiplied(self.gate_up[expert], x[row].astype(np.float64), exact)
                gate, up = products[:WIDTH], products[WIDTH:]
                out[row] += share * multiplied(self.down[expert], gate / (1 + np.exp(-gate)) * up, exact)
        return out


def multiplied(matrix: RandomMatrix, x: NDArray[np.float64], exact: bool) -> NDArray[np.float64]:
    """Multiply one row, rounded or as it is."""
    if not exact:
        codes, scales = rounded(x.astype(np.float32)[None], matrix.shape.group)
        x = np.ravel(codes * scales[..., None].astype(np.float64))
    weights = matrix.whole() * matrix.scales[..., None].astype(np.float64)
    product: NDArray[np.float64] = weights.reshape(matrix.shape.rows, -1) @ x
    return product


def built() -> Library:
    assert FOUND is not None
    return FOUND


def stacked(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    out = aligned_bytes(sum(part.size for part in parts))
    np.concatenate(parts, out=out)
    return out


def inputs(rows: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, HIDDEN)).astype(np.float32), rng.normal(size=(rows, EXPERTS)).astype(np.float32)


def error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("bits", "group"), [(4, 16), (4, 32), (4, 128), (8, 32), (8, 64)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_results_are_those_of_numpy(name: str, bits: int, group: int, symmetric: bool) -> None:
    """Where an activation lies between two codes, the order of sums decides: a few may be of the other one."""
    layer = Layer.random(bits, group, symmetric)
    for rows in (1, 2, 40):
        x, logits = inputs(rows, rows)
        assert error(layer.computed(name, x, logits), layer.expected(x, logits)) < 2e-3


@pytest.mark.parametrize("name", SETS)
def test_a_rows_result_does_not_depend_on_other_rows(name: str) -> None:
    layer, (x, logits) = Layer.random(4, 32, symmetric=False), inputs(50)
    together = layer.computed(name, x, logits)
    for rows in (slice(0, 1), slice(7, 9), slice(20, 50)):
        np.testing.assert_array_equal(layer.computed(name, x[rows], logits[rows]), together[rows])


@pytest.mark.parametrize("name", SETS)
def test_rows_without_shares_become_nan_and_others_do_not(name: str) -> None:
    layer, (x, logits) = Layer.random(4, 32, symmetric=True), inputs(5)
    logits[1, 2], logits[3, 4], logits[4, 0] = np.nan, np.inf, -np.inf
    found = layer.computed(name, x, logits)
    assert np.isnan(found).all(1).tolist() == [False, True, False, True, False]
    assert np.isfinite(found[[0, 2, 4]]).all()


def test_what_does_not_fit_is_refused() -> None:
    layer, (x, logits) = Layer.random(4, 32, symmetric=True), inputs(2)
    with pytest.raises(ValueError, match="do not fit"):
        layer.computed(SETS[-1], x[:, :-1], logits)
    with pytest.raises(ValueError, match="do not fit"):
        layer.computed(SETS[-1], x, logits[:, :2])  # fewer than are chosen


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_onnxruntimes_own_operator_agrees(bits: int, symmetric: bool) -> None:
    """It chooses the same experts, of equal logits the last, and is as far from what is exact, as it rounds too."""
    layer, (x, logits) = Layer.random(bits, 32, symmetric), inputs(33)
    logits[:9] = np.round(logits[:9])
    logits[9] = 0.5
    exact, theirs = layer.expected(x, logits, exact=True), by_onnxruntime(layer, x, logits)
    rounding = error(theirs, exact)
    assert 0 < rounding < 0.05
    for name in SETS:
        ours = layer.computed(name, x, logits)
        assert error(ours, exact) < 1.1 * rounding
        assert error(ours, theirs) < 1.5 * rounding


def by_onnxruntime(layer: Layer, x: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The experts by QMoE at accuracy level 4, which has the rows of gate and up in turn."""
    shape = layer.down[0].shape
    tensors: dict[int, NDArray[Any]] = {}
    for matrices, places in ((layer.gate_up, (2, 3, 11)), (layer.down, (5, 6, 12))):
        parts = [(each.stored_codes(), each.scales, each.stored_zero_points()) for each in matrices]
        for place, values in zip(places, zip(*parts, strict=True), strict=True):
            if values[0] is not None:
                rows = np.stack([array.reshape(len(array), -1) for array in values])
                tensors[place] = in_turn(rows) if matrices is layer.gate_up else rows
    names = ["x", "logits", *(f"t{place}" if place in tensors else "" for place in range(2, max(tensors) + 1))]
    node = helper.make_node(
        "QMoE", names, ["y"], domain="com.microsoft",
        activation_type="swiglu", activation_alpha=1.0, activation_beta=0.0, swiglu_fusion=1, k=CHOSEN,
        normalize_routing_weights=1, expert_weight_bits=shape.bits, block_size=shape.group, accuracy_level=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "experts",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("x", "logits")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(values, f"t{place}") for place, values in tensors.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"x": x, "logits": logits})[0]
    return found


def in_turn(values: NDArray[Any]) -> NDArray[Any]:
    """[E, 2 I, ...] with the rows of both halves in turn."""
    return np.ascontiguousarray(values.reshape(EXPERTS, 2, WIDTH, -1).swapaxes(1, 2)).reshape(values.shape)
