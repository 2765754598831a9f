"""Experts in a serialized ONNX model that our kernels can compute, and copies of the model with our operator.

Operator: onnxruntime's com.microsoft QMoE as `exporters/onnx` writes it, and in its place QMoE of `q3edge.kernels`,
which reads packed matrices from a mapped file (q3edge/kernels/native/expert_operator.cpp).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from q3edge.kernels.library import DOMAIN
from q3edge.runtime.session.expert_graph import OPERATOR, OPERATOR_DOMAIN
from q3edge.runtime.session.graph_nodes import Graph, Node, messages, numbers
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.product_graph import INT8_ACTIVATIONS, BlockMatrix
from q3edge.runtime.session.wire_format import Message

# Attributes that our operator takes with these values alone, and those that it need not know.
_NUMBERS = {"swiglu_fusion": 1, "weights_prepacked": 0, "accuracy_level": INT8_ACTIVATIONS}
_TEXTS = {"activation_type": b"swiglu", "quant_type": b"int"}
_FLOATS = {"activation_alpha": 1.0, "activation_beta": 0.0}
_OTHERS = {"k", "expert_weight_bits", "block_size", "normalize_routing_weights"}
_KNOWN = {*_NUMBERS, *_TEXTS, *_FLOATS, *_OTHERS}
_X, _LOGITS, _GATE_UP, _DOWN = 0, 1, (2, 3, 11), (5, 6, 12)  # places of inputs: codes, scales, zero points
_INPUTS = 15
_ATTRIBUTE_FLOAT, _ATTRIBUTE_TEXT = b"\x15", 4  # the tag of one, the number of the other


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """Experts of a layer, of which each row of `x` takes `chosen`, by the logits of its router; names of values.

    gate_up: [2 I, H], the rows of both in turn; down: [H, I]. start: where the node begins in the serialized model.
    """

    start: int
    x: str
    logits: str
    y: str
    chosen: int
    gate_up: BlockMatrix
    down: BlockMatrix

    @property
    def matrices(self) -> tuple[BlockMatrix, BlockMatrix]:
        """Both."""
        return self.gate_up, self.down


def routed_experts(graph: Graph, lent: LentWeights) -> tuple[RoutedExperts, ...]:
    """Find the experts that read int8 activations, in the order of the graph; lent: tells the shapes of weights.

    None are found if there are others beside them: experts of a model have the same kernels.
    """
    nodes = [node for node in graph.nodes if node.is_a(OPERATOR, OPERATOR_DOMAIN)]
    found = [_experts(node, lent) for node in nodes]
    known = tuple(each for each in found if each is not None)
    return known if len(known) == len(nodes) else ()


def expert_nodes(
    experts: Iterable[RoutedExperts], packed: Mapping[str, Mapping[str, int]], common: Mapping[str, int]
) -> list[Node]:
    """List our operator for each layer; packed: attributes of matrices by the names of their codes; common: of all."""
    return [
        Node(
            each.start,
            OPERATOR,
            DOMAIN,
            (each.x, each.logits),
            (each.y,),
            numbers(
                {
                    "experts": each.gate_up.count,
                    "k": each.chosen,
                    **{f"gate_up_{name}": value for name, value in packed[each.gate_up.codes].items()},
                    **{f"down_{name}": value for name, value in packed[each.down.codes].items()},
                    **common,
                }
            ),
        )
        for each in experts
    ]


def _experts(node: Node, lent: LentWeights) -> RoutedExperts | None:
    given, inputs = node.numbers, (*node.inputs, *[""] * _INPUTS)
    others = set(range(len(node.inputs))) - {_X, _LOGITS, *_GATE_UP, *_DOWN}
    if (
        not node.names <= _KNOWN
        or any(given.get(name) != value for name, value in _NUMBERS.items())
        or any(_text(node, name) != value for name, value in _TEXTS.items())
        or any(not _is_float(node, name, value) for name, value in _FLOATS.items())
        or any(inputs[place] for place in others)
    ):
        return None
    bits, group_size = given["expert_weight_bits"], given["block_size"]
    gate_up, down = (
        _matrix([inputs[place] for place in places], lent, bits, group_size) for places in (_GATE_UP, _DOWN)
    )
    if gate_up is None or down is None:
        return None
    fit = (gate_up.count, gate_up.rows, gate_up.width) == (down.count, 2 * down.width, down.rows)
    if not fit or not 0 < given["k"] <= down.count:
        return None
    gate_up = replace(gate_up, in_turn=2)
    return RoutedExperts(node.start, inputs[_X], inputs[_LOGITS], node.outputs[0], given["k"], gate_up, down)


def _matrix(names: list[str], lent: LentWeights, bits: int, group_size: int) -> BlockMatrix | None:
    """Matrices of all experts; None: their weights are not lent, or not of the shape that is known."""
    codes, scales, zero_points = names
    if not {codes, *filter(None, [zero_points])} <= lent.names or lent.array(codes).ndim != 3 or not group_size:
        return None
    count, rows, row_bytes = lent.array(codes).shape
    groups = row_bytes * 8 // bits // group_size
    if zero_points and lent.array(zero_points).shape != (count, rows, -(-groups * bits // 8)):
        return None
    return BlockMatrix(codes, scales, zero_points or None, rows, row_bytes * 8 // bits, group_size, bits, count=count)


def _text(node: Node, name: str) -> bytes:
    attribute = node.attribute(name)
    return b"" if attribute is None else next(messages(Message.whole(attribute), _ATTRIBUTE_TEXT)).copy()


def _is_float(node: Node, name: str, value: float) -> bool:
    return _ATTRIBUTE_FLOAT + struct.pack("<f", value) in (node.attribute(name) or b"")
