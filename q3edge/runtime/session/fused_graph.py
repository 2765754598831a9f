"""Small operators around products and attention, in a serialized ONNX model, that our operators compute themselves.

A norm or a gated product before a product, the sum behind it, and the norms of heads before attention are each a pass
over activations that were just in a core's cache. Operators and their order: `exporters/onnx`. What is not exactly as
it is written there stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from q3edge.kernels.library import DOMAIN
from q3edge.runtime.session.graph_nodes import Graph, Node, numbers

PRODUCT, ATTENTION = "MatMulNBits", "Attention"  # of our domain
_LAST_AXIS = (1 << 64) - 1  # -1 as protobuf writes it
_X, _UP, _NORM, _SUMMAND = range(4)  # places among a product's inputs
_QUERY, _KEY, _VALUE, _QUERY_NORM, _KEY_NORM = 0, 1, 2, 12, 13  # and among attention's


def fuse_operators(graph: Graph) -> None:
    """Have products and attention of ours compute what stands around them."""
    for fuse in (_with_gate, _with_norm, _with_summand, _with_head_norms):
        graph.exchange(fuse(_View(graph)))


class _View:
    """Nodes of a graph by what they make and read."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._readers: defaultdict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.reads():
                self._readers[name].append(node)

    def ours(self, op_type: str) -> Iterable[Node]:
        """Nodes of one of our operators."""
        return [node for node in self._graph.nodes if node.is_a(op_type, DOMAIN)]

    def maker(self, name: str, op_type: str) -> Node | None:
        """Node of ONNX's own operator that makes a value; None: something else does."""
        node = self._graph.makers.get(name)
        return node if node is not None and node.is_a(op_type) else None

    def comes_from(self, name: str) -> int:
        """Where the maker of a value begins; -1 for inputs and initializers."""
        node = self._graph.makers.get(name)
        return -1 if node is None else node.start

    def readers(self, name: str) -> list[Node]:
        """Nodes that read a value, once for each time; none if the graph's caller reads it too."""
        return [] if name in self._graph.outputs else self._readers[name]

    def alone(self, name: str, op_type: str) -> Node | None:
        """Maker of a value that one node reads, if it is this operator."""
        return self.maker(name, op_type) if len(self.readers(name)) == 1 else None


def _with_gate(view: _View) -> list[Node]:
    """Products of silu(gate) * up, which read gate and up."""
    changed = []
    for product in view.ours(PRODUCT):
        gated = view.alone(product.inputs[_X], "Mul")
        silu = view.alone(gated.inputs[0], "Mul") if gated is not None else None
        if gated is None or silu is None:
            continue
        gate, up = silu.inputs[0], gated.inputs[1]
        sigmoid = view.alone(silu.inputs[1], "Sigmoid")
        if sigmoid is None or sigmoid.inputs != (gate,):
            continue
        split = view.maker(gate, "Split")
        if split is not None and split.outputs == (gate, up) and split.numbers.get("axis") == _LAST_AXIS:
            changed.append(_gated(product, split.inputs[0]))
        else:
            changed.append(_gated(product, gate, up))
    return changed


def _with_norm(view: _View) -> list[Node]:
    """Products of a normed value that products alone read, which read the value and the norm's weight."""
    changed = []
    for product in view.ours(PRODUCT):
        norm = view.maker(product.inputs[_X], "RMSNormalization")
        if norm is None or "axis" in norm.numbers or "gated" in product.names:
            continue
        if all(node.is_a(PRODUCT, DOMAIN) for node in view.readers(norm.outputs[0])) and view.readers(norm.outputs[0]):
            inputs = (norm.inputs[0], "", norm.inputs[1])
            changed.append(replace(product, inputs=inputs, attributes=(*product.attributes, *_epsilon(norm))))
    return changed


def _with_summand(view: _View) -> list[Node]:
    """Products that are only added to a value from before them, which make the sum."""
    changed = []
    for product in view.ours(PRODUCT):
        (y,) = product.outputs
        readers = view.readers(y)
        if len(readers) != 1 or not readers[0].is_a("Add"):
            continue
        (total,) = readers
        other = [name for name in total.inputs if name != y]
        if len(other) == 1 and view.comes_from(other[0]) < product.start:
            inputs = (*product.inputs, "", "", "")[:_SUMMAND]
            changed.append(replace(product, inputs=(*inputs, other[0]), outputs=total.outputs))
            changed.append(replace(total, outputs=()))  # it makes nothing more, and is left out
    return changed


def _with_head_norms(view: _View) -> list[Node]:
    """Attention of normed heads, which reads them before the norm, and all three from one tensor if they are one."""
    changed = []
    for node in view.ours(ATTENTION):
        query, key = (_head_norm(view, node.inputs[place]) for place in (_QUERY, _KEY))
        if query is None or key is None or query.epsilon != key.epsilon:
            continue
        heads: tuple[str, ...] = (query.x, key.x, node.inputs[_VALUE])
        split = view.maker(query.x, "Split")
        if split is not None and split.outputs == heads and split.numbers.get("axis") == _LAST_AXIS:
            heads = (split.inputs[0], "", "")
        inputs = (*heads, *node.inputs[len(heads) :], *[""] * _KEY_NORM)[:_QUERY_NORM]
        changed.append(
            replace(
                node,
                inputs=(*inputs, query.weight, key.weight),
                attributes=(*node.attributes, *query.epsilon),
            )
        )
    return changed


@dataclass(frozen=True, slots=True)
class _HeadNorm:
    x: str
    weight: str
    epsilon: tuple[bytes, ...]


def _head_norm(view: _View, name: str) -> _HeadNorm | None:
    """Norm of each head of a value, between two changes of its shape."""
    joined = view.alone(name, "Reshape")
    norm = view.alone(joined.inputs[0], "RMSNormalization") if joined is not None else None
    split = view.alone(norm.inputs[0], "Reshape") if norm is not None else None
    if norm is None or split is None or "axis" in norm.numbers:
        return None
    return _HeadNorm(split.inputs[0], norm.inputs[1], _epsilon(norm))


def _epsilon(norm: Node) -> tuple[bytes, ...]:
    epsilon = norm.attribute("epsilon")
    return () if epsilon is None else (epsilon,)


def _gated(product: Node, *inputs: str) -> Node:
    return replace(product, inputs=inputs, attributes=(*product.attributes, *numbers({"gated": 1})))
