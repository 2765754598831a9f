"""Block-quantized products in a serialized ONNX model: which nodes they are, and copies of the model with our operator.

Operator: onnxruntime's com.microsoft MatMulNBits, and in its place MatMulNBits of `q3edge.kernels`, which reads packed
matrices from a mapped file (q3edge/kernels/native/product_operator.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from q3edge.kernels.library import DOMAIN
from q3edge.runtime.session.graph_input import FLOAT32, value_info
from q3edge.runtime.session.graph_nodes import (
    GRAPH_NAME,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    Graph,
    Node,
    numbers,
    without_graph,
)
from q3edge.runtime.session.wire_format import field_bytes

_OPERATOR, _OPERATOR_DOMAIN = "MatMulNBits", "com.microsoft"
INT8_ACTIVATIONS = 4  # accuracy_level


@dataclass(frozen=True, slots=True)
class BlockMatrix:
    """Block-quantized matrix [rows, width], or `count` of them, one behind the other; names of what it is stored in.

    zero_points None: it is symmetric. in_turn: its rows are those of so many matrices in turn; packed, the rows of one
    matrix are behind those of another.
    """

    codes: str
    scales: str
    zero_points: str | None
    rows: int
    width: int
    group_size: int
    bits: int
    count: int = 1
    in_turn: int = 1


@dataclass(frozen=True, slots=True)
class ProductOperator:
    """Product of a float32 input with a matrix. start: where the node begins in the serialized model."""

    start: int
    x: str
    y: str
    matrix: BlockMatrix


def product_operators(graph: Graph) -> tuple[ProductOperator, ...]:
    """Find the products that read int8 activations, in the order of the graph."""
    return tuple(found for node in graph.nodes if (found := _operator(node)) is not None)


class ScalesOf:
    """Models that compute the scales of a model's products, as onnxruntime does when it loads the model."""

    def __init__(self, model: bytes) -> None:
        self._rest, self._graph = without_graph(model), Graph(model)

    def computing(self, matrix: BlockMatrix) -> bytes:
        """Model without inputs, whose only output is the scales of a matrix."""
        graph = b"".join((
            *self._graph.computing([matrix.scales]),
            field_bytes(GRAPH_NAME, b"scales"),
            field_bytes(GRAPH_OUTPUT, value_info(matrix.scales, FLOAT32)),
        ))  # fmt: skip
        return self._rest + field_bytes(MODEL_GRAPH, graph)


def packed_nodes(
    operators: Iterable[ProductOperator], packed: Mapping[str, Mapping[str, int]], common: Mapping[str, int]
) -> list[Node]:
    """List our operator for each product; packed: attributes of matrices by their codes' names; common: of all."""
    return [
        Node(each.start, _OPERATOR, DOMAIN, (each.x,), (each.y,), numbers({**packed[each.matrix.codes], **common}))
        for each in operators
    ]


def _operator(node: Node) -> ProductOperator | None:
    if not node.is_a(_OPERATOR, _OPERATOR_DOMAIN):
        return None
    given, inputs = node.numbers, (*node.inputs, "")
    if given.get("accuracy_level") != INT8_ACTIVATIONS or any(inputs[4:]):  # group indices or a bias
        return None
    matrix = BlockMatrix(
        codes=inputs[1],
        scales=inputs[2],
        zero_points=inputs[3] or None,
        rows=given["N"],
        width=given["K"],
        group_size=given["block_size"],
        bits=given.get("bits", 4),
    )
    return ProductOperator(node.start, inputs[0], node.outputs[0], matrix)
