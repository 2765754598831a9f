"""Facts about onnxruntime's operators for experts that the exporter rests on, against numpy's dequantized products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from q3edge.quantization.packing import pack_codes
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.runtime.session.exact_activations import exact_experts
from tests.helpers.onnx_models import random_quantized, session

FloatArray = NDArray[np.float32]
EXPERTS, HIDDEN, WIDTH, CHOSEN = 5, 512, 256, 2
SWIGLU: dict[str, Any] = {
    "activation_type": "swiglu", "activation_alpha": 1.0, "activation_beta": 0.0, "swiglu_fusion": 1,
    "normalize_routing_weights": 1, "k": CHOSEN,
}  # fmt: skip


def random_stack(rows: int, width: int, scheme: Scheme, seed: int) -> list[QuantizedTensor]:
    rng = np.random.default_rng(seed)
    return [random_quantized(rows, width, scheme, rng) for _ in range(EXPERTS)]


def inputs(tokens: int) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(tokens)
    x = rng.standard_normal((1, tokens, HIDDEN)).astype(np.float32)
    return x, 2 * rng.standard_normal((tokens, EXPERTS)).astype(np.float32)


def expected(x: FloatArray, logits: FloatArray, fc1: list[FloatArray], fc2: list[FloatArray]) -> NDArray[np.float64]:
    """Sum of the likeliest experts' products, by their share of their own probabilities; fc1: gate and up in turn."""
    tokens = x.reshape(-1, x.shape[-1]).astype(np.float64)
    out = np.zeros((len(tokens), fc2[0].shape[0]))
    for token, scores in enumerate(logits.astype(np.float64)):
        chosen = np.argsort(-scores)[:CHOSEN]
        shares = np.exp(scores[chosen]) / np.exp(scores[chosen]).sum()
        for expert, share in zip(chosen, shares):
            products = fc1[expert].astype(np.float64) @ tokens[token]
            gate, up = products[0::2], products[1::2]
            out[token] += share * (fc2[expert].astype(np.float64) @ (gate / (1 + np.exp(-gate)) * up))
    return out.reshape(x.shape[:-1] + out.shape[-1:])


def run(
    op_type: str, x: FloatArray, logits: FloatArray, tensors: dict[int, NDArray[Any]], **attributes: Any
) -> FloatArray:
    """Run one node; tensors: initializers by the number of the input."""
    names = ["x", "router", *("" for _ in range(max(tensors) - 1))]
    for number in tensors:
        names[number] = f"t{number}"
    node = helper.make_node(op_type, names, ["y"], domain="com.microsoft", **(SWIGLU | attributes))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * array.ndim)
        for name, array in (("x", x), ("router", logits), ("y", x))
    ]
    initializers = [numpy_helper.from_array(array, f"t{number}") for number, array in tensors.items()]
    graph = helper.make_graph([node], "experts", values[:2], values[2:], initializers)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    found: FloatArray = session(model.SerializeToString()).run(None, {"x": x, "router": logits})[0]
    return found


def stacked(parts: list[NDArray[Any]], bits: int | None = None) -> NDArray[Any]:
    """[E, N, ...] of the experts' parts, packed if `bits` are given."""
    return np.stack([part if bits is None else pack_codes(part, bits) for part in parts])


def run_quantized(
    x: FloatArray, logits: FloatArray, fc1: list[QuantizedTensor], fc2: list[QuantizedTensor], **attributes: Any
) -> FloatArray:
    tensors: dict[int, NDArray[Any]] = {}
    for fc, codes, scales, zero_points in ((fc1, 2, 3, 11), (fc2, 5, 6, 12)):
        bits = fc[0].scheme.bits
        tensors[codes] = stacked([tensor.codes for tensor in fc], bits)
        tensors[scales] = stacked([tensor.scales.astype(np.float32) for tensor in fc])
        if not fc[0].scheme.symmetric:
            points = [tensor.zero_points for tensor in fc if tensor.zero_points is not None]
            tensors[zero_points] = stacked(points, bits)
    scheme = fc1[0].scheme
    chosen = {"expert_weight_bits": scheme.bits, "block_size": scheme.group_size, "weights_prepacked": 0}
    return run("QMoE", x, logits, tensors, **(chosen | attributes))


def error(found: FloatArray, wanted: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def both(scheme: Scheme) -> tuple[list[QuantizedTensor], list[QuantizedTensor]]:
    return random_stack(2 * WIDTH, HIDDEN, scheme, 1), random_stack(HIDDEN, WIDTH, scheme, 2)


def values(fc: list[QuantizedTensor]) -> list[FloatArray]:
    return [tensor.dequantize() for tensor in fc]


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("group_size", [16, 32, 64, 128, 256])  # 256: one group in a row of fc2
@pytest.mark.parametrize("bits", [4, 8])
def test_layouts_are_those_of_matmulnbits_for_each_expert(bits: int, group_size: int, symmetric: bool) -> None:
    fc1, fc2 = both(Scheme(bits, group_size, symmetric))
    switch: AbstractContextManager[None] = exact_experts() if bits == 8 else nullcontext()
    for tokens in (1, 33):
        x, logits = inputs(tokens)
        wanted = expected(x, logits, values(fc1), values(fc2))
        with switch:
            assert error(run_quantized(x, logits, fc1, fc2, accuracy_level=0), wanted) < 3e-6
        switch = exact_experts() if bits == 8 else nullcontext()


@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_activations_are_near_and_the_switch_makes_them_exact(bits: int) -> None:
    fc1, fc2 = both(Scheme(bits, 32, symmetric=False))
    x, logits = inputs(9)
    wanted = expected(x, logits, values(fc1), values(fc2))
    assert error(run_quantized(x, logits, fc1, fc2, accuracy_level=4), wanted) < 0.05
    with exact_experts():
        assert error(run_quantized(x, logits, fc1, fc2, accuracy_level=4), wanted) < 3e-6


def test_gate_and_up_may_have_zero_points_where_down_has_none() -> None:
    fc1 = random_stack(2 * WIDTH, HIDDEN, Scheme(4, 32, symmetric=False), 1)
    fc2 = random_stack(HIDDEN, WIDTH, Scheme(4, 32), 2)
    x, logits = inputs(4)
    assert error(run_quantized(x, logits, fc1, fc2), expected(x, logits, values(fc1), values(fc2))) < 3e-6


def test_it_has_one_width_for_both_products_on_a_cpu() -> None:
    """The reason for `expert_matrices` to refuse others; once onnxruntime can, it need not."""
    fc1 = random_stack(2 * WIDTH, HIDDEN, Scheme(4, 32), 1)
    fc2 = random_stack(HIDDEN, WIDTH, Scheme(8, 32), 2)
    with pytest.raises(Exception, match="Mixed-width QMoE execution is not yet implemented on CPU"):
        run_quantized(*inputs(4), fc1, fc2, fc1_expert_weight_bits=4, fc2_expert_weight_bits=8)


def test_shares_are_of_the_chosen_experts_whatever_it_is_told() -> None:
    """The reason for the exporter to scale the result itself where shares are of all experts."""
    fc1, fc2 = both(Scheme(4, 32))
    x, logits = inputs(4)
    one, other = (run_quantized(x, logits, fc1, fc2, normalize_routing_weights=told) for told in (0, 1))
    np.testing.assert_array_equal(one, other)


def test_the_float_operator_has_the_same_layouts() -> None:
    rng = np.random.default_rng(0)
    fc1, fc2 = (
        [(rng.standard_normal(shape) / 16).astype(np.float32) for _ in range(EXPERTS)]
        for shape in ((2 * WIDTH, HIDDEN), (HIDDEN, WIDTH))
    )
    for tokens in (1, 33):
        x, logits = inputs(tokens)
        found = run("MoE", x, logits, {2: np.stack(fc1), 4: np.stack(fc2)})
        assert error(found, expected(x, logits, fc1, fc2)) < 3e-6
