"""Block-quantized products in a serialized ONNX model: which nodes they are, and copies of the model with our operator.

Operator: onnxruntime's com.microsoft MatMulNBits, and in its place MatMulNBits of `q3edge.kernels`, which reads packed
matrices from a mapped file (q3edge/kernels/native/product_operator.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from q3edge.kernels.library import DOMAIN
from q3edge.runtime.session.graph_input import FLOAT32, value_info
from q3edge.runtime.session.graph_nodes import (
    GRAPH_NAME,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    Node,
    graph_parts,
    node_bytes,
    nodes,
    opset_bytes,
    with_nodes,
    without_graph,
)
from q3edge.runtime.session.wire_format import field_bytes

_OPERATOR, _OPERATOR_DOMAIN = "MatMulNBits", "com.microsoft"
_INT8_ACTIVATIONS = 4  # accuracy_level
_OPSET = 1


@dataclass(frozen=True, slots=True)
class ProductOperator:
    """Product of a float32 input with a block-quantized matrix [rows, width]; names of what it reads.

    zero_points None: the matrix is symmetric. start: where the node begins in the serialized model.
    """

    start: int
    x: str
    y: str
    codes: str
    scales: str
    zero_points: str | None
    rows: int
    width: int
    group_size: int
    bits: int


def product_operators(model: bytes) -> tuple[ProductOperator, ...]:
    """Find the products that read int8 activations, in the order of the graph."""
    return tuple(found for node in nodes(model) if (found := _operator(node)) is not None)


def computing_scales(model: bytes, operator: ProductOperator) -> bytes:
    """Model without inputs that computes an operator's scales, its only output, as onnxruntime does at load."""
    graph = b"".join((
        *graph_parts(model, [operator.scales]),
        field_bytes(GRAPH_NAME, b"scales"),
        field_bytes(GRAPH_OUTPUT, value_info(operator.scales, FLOAT32)),
    ))  # fmt: skip
    return without_graph(model) + field_bytes(MODEL_GRAPH, graph)


def with_packed_products(model: bytes, packed: Mapping[int, Mapping[str, int]]) -> bytes:
    """Copy of a model whose products, by where they begin, are our operator with these attributes.

    What only the former ones read is left out.
    """
    instead = {
        operator.start: node_bytes(_OPERATOR, DOMAIN, [operator.x], [operator.y], packed[operator.start])
        for operator in product_operators(model)
        if operator.start in packed
    }
    return with_nodes(model, instead) + opset_bytes(DOMAIN, _OPSET)


def _operator(node: Node) -> ProductOperator | None:
    if (node.op_type, node.domain) != (_OPERATOR, _OPERATOR_DOMAIN):
        return None
    numbers, inputs = node.numbers, (*node.inputs, "")
    if numbers.get("accuracy_level") != _INT8_ACTIVATIONS or any(inputs[4:]):  # group indices or a bias
        return None
    return ProductOperator(
        start=node.message.start,
        x=inputs[0],
        y=node.outputs[0],
        codes=inputs[1],
        scales=inputs[2],
        zero_points=inputs[3] or None,
        rows=numbers["N"],
        width=numbers["K"],
        group_size=numbers["block_size"],
        bits=numbers.get("bits", 4),
    )
