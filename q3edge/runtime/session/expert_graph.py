"""Experts in a serialized ONNX model: which operators have them, each of them alone, and copies that read constants.

Field numbers are those of onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from q3edge.runtime.session.graph_input import FLOAT32, value_info
from q3edge.runtime.session.graph_nodes import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NAME,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    TENSOR_NAME,
    Graph,
    Node,
    messages,
    name_of,
    parts,
    without_graph,
)
from q3edge.runtime.session.wire_format import Message, field_bytes, fields

OPERATOR, OPERATOR_DOMAIN = "QMoE", "com.microsoft"
_NO_GROUPS = 1 << 30  # a scale for each row
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION = 1, 2, 13, 14
_ENTRY_KEY, _ENTRY_VALUE, _EXTERNAL = 1, 2, 1


@dataclass(frozen=True, slots=True)
class ExpertOperator:
    """Operator with the experts of one layer: names of inputs ("": left out) and output; bits and groups of codes."""

    inputs: tuple[str, ...]
    output: str
    bits: int
    group_size: int

    # Places of its inputs: the activations and the router's logits, then codes and scales of both products.
    ACTIVATIONS = (0, 1)
    CODES_AND_SCALES = ((2, 3), (5, 6))

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the inputs that do not change."""
        return tuple(filter(None, self.inputs[len(self.ACTIVATIONS) :]))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Initializer of a graph with external data: shape, type by its number, and entries (keys -> values)."""

    name: str
    shape: tuple[int, ...]
    data_type: int
    entries: Mapping[str, str]

    def serialized(self) -> bytes:
        """Bytes of the TensorProto."""
        pairs = (
            field_bytes(_ENTRY_KEY, key.encode()) + field_bytes(_ENTRY_VALUE, value.encode())
            for key, value in self.entries.items()
        )
        return b"".join((
            *(field_bytes(_TENSOR_DIMS, size) for size in self.shape),
            field_bytes(_TENSOR_DATA_TYPE, self.data_type),
            field_bytes(TENSOR_NAME, self.name.encode()),
            *(field_bytes(_TENSOR_EXTERNAL_DATA, pair) for pair in pairs),
            field_bytes(_TENSOR_LOCATION, _EXTERNAL),
        ))  # fmt: skip


def expert_operators(model: bytes) -> tuple[ExpertOperator, ...]:
    """Find the operators with quantized experts, in the order of the graph."""
    if OPERATOR.encode() not in model:  # told apart without reading it
        return ()
    return tuple(_operator(node) for node in Graph(model).nodes if node.is_a(OPERATOR, OPERATOR_DOMAIN))


def alone(model: bytes, operator: ExpertOperator) -> bytes:
    """Model of one operator and of what its constants are computed from; activations and logits are its inputs."""
    given = [operator.inputs[place] for place in operator.ACTIVATIONS]
    graph = b"".join((
        *Graph(model).computing([operator.output], given),
        field_bytes(GRAPH_NAME, b"experts"),
        *(field_bytes(GRAPH_INPUT, value_info(name, FLOAT32)) for name in given),
        field_bytes(GRAPH_OUTPUT, value_info(operator.output, FLOAT32)),
    ))  # fmt: skip
    return without_graph(model) + field_bytes(MODEL_GRAPH, graph)


def stored_tensors(model: bytes) -> dict[str, StoredTensor]:
    """Initializers with external data by name, in a model that onnxruntime wrote."""
    found = map(_stored, parts(model, GRAPH_INITIALIZER))
    return {tensor.name: tensor for tensor in found if tensor.entries}


def folded_tensors(model: bytes) -> frozenset[str]:
    """Names of the initializers that onnxruntime computes with when it loads a model: by nodes that read no others."""
    stored = {name_of(tensor, TENSOR_NAME) for tensor in parts(model, GRAPH_INITIALIZER)}
    read = (set(node.inputs) for node in Graph(model).nodes)
    return frozenset(name for names in read if names <= stored for name in names)


def with_constants(model: bytes, tensors: Iterable[StoredTensor], instead: Mapping[str, str]) -> bytes:
    """Copy of a model with more initializers, which its operators with experts read: `instead` of which input, which.

    Nodes that computed those inputs and nothing else are left out.
    """
    graph = Graph(model)
    graph.exchange(
        replace(node, inputs=tuple(instead.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if node.is_a(OPERATOR, OPERATOR_DOMAIN)
    )
    added = b"".join(field_bytes(GRAPH_INITIALIZER, tensor.serialized()) for tensor in tensors)
    return graph.serialized() + field_bytes(MODEL_GRAPH, added)


def _operator(node: Node) -> ExpertOperator:
    numbers = node.numbers
    group_size = numbers.get("block_size") or _NO_GROUPS
    return ExpertOperator(node.inputs, node.outputs[0], numbers.get("expert_weight_bits") or 4, group_size)


def _stored(tensor: Message) -> StoredTensor:
    values = list(fields(tensor))
    shape = tuple(value for number, value in values if number == _TENSOR_DIMS and isinstance(value, int))
    types = [value for number, value in values if number == _TENSOR_DATA_TYPE and isinstance(value, int)]
    entries = {name_of(e, _ENTRY_KEY): name_of(e, _ENTRY_VALUE) for e in messages(tensor, _TENSOR_EXTERNAL_DATA)}
    return StoredTensor(name_of(tensor, TENSOR_NAME), shape, types[0], entries)
