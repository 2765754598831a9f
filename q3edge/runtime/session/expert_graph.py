"""Experts in a serialized ONNX model: which operators have them, each of them alone, and copies that read constants.

Field numbers are those of onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from q3edge.runtime.session.graph_input import FLOAT32, value_info
from q3edge.runtime.session.wire_format import Message, field_bytes, fields, rewritten

_OPERATOR = b"QMoE"
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 7, 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 2, 4, 5, 1, 3
_NO_GROUPS = 1 << 30  # a scale for each row
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION = 1, 2, 8, 13, 14
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
            field_bytes(_TENSOR_NAME, self.name.encode()),
            *(field_bytes(_TENSOR_EXTERNAL_DATA, pair) for pair in pairs),
            field_bytes(_TENSOR_LOCATION, _EXTERNAL),
        ))  # fmt: skip


def expert_operators(model: bytes) -> tuple[ExpertOperator, ...]:
    """Find the operators with quantized experts, in the order of the graph."""
    return tuple(operator for node in _parts(model, _GRAPH_NODE) if (operator := _operator(node)) is not None)


def alone(model: bytes, operator: ExpertOperator) -> bytes:
    """Model of one operator and of what its constants are computed from; activations and logits are its inputs."""
    nodes = [(_names(node, _NODE_INPUT), _names(node, _NODE_OUTPUT), node) for node in _parts(model, _GRAPH_NODE)]
    wanted, kept = set(operator.constants), []
    for inputs, outputs, node in reversed(nodes):
        if operator.output in outputs or not wanted.isdisjoint(outputs):
            wanted |= set() if operator.output in outputs else set(inputs)
            kept.append(field_bytes(_GRAPH_NODE, node.copy()))
    initializers = (tensor for tensor in _parts(model, _GRAPH_INITIALIZER) if _name(tensor, _TENSOR_NAME) in wanted)
    graph = b"".join((
        *reversed(kept),
        field_bytes(_GRAPH_NAME, b"experts"),
        *(field_bytes(_GRAPH_INITIALIZER, tensor.copy()) for tensor in initializers),
        *(field_bytes(_GRAPH_INPUT, value_info(operator.inputs[place], FLOAT32)) for place in operator.ACTIVATIONS),
        field_bytes(_GRAPH_OUTPUT, value_info(operator.output, FLOAT32)),
    ))  # fmt: skip
    return _without_graph(model) + field_bytes(_MODEL_GRAPH, graph)


def stored_tensors(model: bytes) -> dict[str, StoredTensor]:
    """Initializers with external data by name, in a model that onnxruntime wrote."""
    found = map(_stored, _parts(model, _GRAPH_INITIALIZER))
    return {tensor.name: tensor for tensor in found if tensor.entries}


def folded_tensors(model: bytes) -> frozenset[str]:
    """Names of the initializers that onnxruntime computes with when it loads a model: by nodes that read no others."""
    stored = {_name(tensor, _TENSOR_NAME) for tensor in _parts(model, _GRAPH_INITIALIZER)}
    read = (set(_names(node, _NODE_INPUT)) for node in _parts(model, _GRAPH_NODE))
    return frozenset(name for names in read if names <= stored for name in names)


def with_constants(model: bytes, tensors: Iterable[StoredTensor], instead: Mapping[str, str]) -> bytes:
    """Copy of a model with more initializers, which its operators with experts read: `instead` of which input, which.

    Nodes that computed those inputs and nothing else are left out.
    """
    nodes = [(_names(node, _NODE_INPUT), _names(node, _NODE_OUTPUT), node) for node in _parts(model, _GRAPH_NODE)]
    replaced, read, unread = set(instead), set[str](), set[int]()
    for inputs, outputs, node in reversed(nodes):
        if replaced.issuperset(outputs) and read.isdisjoint(outputs):
            unread.add(node.start)
            replaced |= set(inputs)
        elif _operator(node) is None:
            read |= set(inputs)
    changed = rewritten(
        Message.whole(model),
        lambda number, value: _with_inputs(value, instead, unread) if number == _MODEL_GRAPH else None,
    )
    added = b"".join(field_bytes(_GRAPH_INITIALIZER, tensor.serialized()) for tensor in tensors)
    return changed + field_bytes(_MODEL_GRAPH, added)


def _with_inputs(graph: Message, instead: Mapping[str, str], unread: Container[int]) -> bytes:
    """Copy of a graph without the `unread` nodes, by where they begin, and with other inputs of its experts."""
    return rewritten(
        graph,
        lambda number, value: _replaced(value, instead) if number == _GRAPH_NODE else None,
        without=lambda number, value: number == _GRAPH_NODE and value.start in unread,
    )


def _replaced(node: Message, instead: Mapping[str, str]) -> bytes | None:
    """Node with other inputs, if it is an operator with experts."""
    if _operator(node) is None:
        return None
    return rewritten(
        node,
        lambda field, name: instead.get(name.text(), name.text()).encode() if field == _NODE_INPUT else None,
    )


def _operator(node: Message) -> ExpertOperator | None:
    if node.content.find(_OPERATOR, node.start, node.end) < 0:  # most nodes, told apart without reading them
        return None
    if _name(node, _NODE_OP_TYPE) != _OPERATOR.decode():
        return None
    inputs, numbers = _names(node, _NODE_INPUT), dict(map(_attribute, _messages(node, _NODE_ATTRIBUTE)))
    group_size = numbers.get("block_size") or _NO_GROUPS
    return ExpertOperator(inputs, _names(node, _NODE_OUTPUT)[0], numbers.get("expert_weight_bits") or 4, group_size)


def _attribute(attribute: Message) -> tuple[str, int | None]:
    """Name of an attribute, and its value if that is a whole number."""
    number = next((value for field, value in fields(attribute) if field == _ATTRIBUTE_INT), None)
    return _name(attribute, _ATTRIBUTE_NAME), number if isinstance(number, int) else None


def _stored(tensor: Message) -> StoredTensor:
    values = list(fields(tensor))
    shape = tuple(value for number, value in values if number == _TENSOR_DIMS and isinstance(value, int))
    types = [value for number, value in values if number == _TENSOR_DATA_TYPE and isinstance(value, int)]
    entries = {_name(e, _ENTRY_KEY): _name(e, _ENTRY_VALUE) for e in _messages(tensor, _TENSOR_EXTERNAL_DATA)}
    return StoredTensor(_name(tensor, _TENSOR_NAME), shape, types[0], entries)


def _parts(model: bytes, field: int) -> Iterator[Message]:
    """Messages of one kind in the model's graph, which may come in pieces."""
    for graph in _messages(Message.whole(model), _MODEL_GRAPH):
        yield from _messages(graph, field)


def _without_graph(model: bytes) -> bytes:
    return rewritten(Message.whole(model), without=lambda number, _: number == _MODEL_GRAPH)


def _messages(message: Message, field: int) -> Iterator[Message]:
    return (value for number, value in fields(message) if number == field and isinstance(value, Message))


def _names(message: Message, field: int) -> tuple[str, ...]:
    return tuple(value.text() for value in _messages(message, field))


def _name(message: Message, field: int) -> str:
    return next(iter(_names(message, field)), "")
