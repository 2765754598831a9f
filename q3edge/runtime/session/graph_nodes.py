"""Nodes of a serialized ONNX model: what they read and make, parts of the model that compute some values, dead parts.

Field numbers are those of onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from q3edge.runtime.session.wire_format import Message, field_bytes, fields, rewritten

MODEL_GRAPH, GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 7, 1, 2, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
TENSOR_NAME, VALUE_NAME = 8, 1
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TYPE, _TYPE_INT = 1, 3, 6, 20, 2
_MODEL_OPSET, _OPSET_DOMAIN, _OPSET_VERSION = 8, 1, 2


@dataclass(frozen=True, slots=True)
class Node:
    """Node of the model's graph, and the names of its inputs ("": left out) and outputs."""

    message: Message
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def numbers(self) -> dict[str, int]:
        """Attributes that are whole numbers."""
        pairs = map(_attribute, messages(self.message, NODE_ATTRIBUTE))
        return {name: value for name, value in pairs if value is not None}

    def reads(self) -> Iterator[str]:
        """Names of all values that it reads, those that its subgraphs read from outside among them."""
        yield from filter(None, self.inputs)
        for graph in self.subgraphs():
            for message in messages(graph, GRAPH_NODE):
                yield from node(message).reads()
            for output in messages(graph, GRAPH_OUTPUT):
                yield name_of(output, VALUE_NAME)

    def subgraphs(self) -> Iterator[Message]:
        """Graphs among its attributes."""
        for attribute in messages(self.message, NODE_ATTRIBUTE):
            yield from messages(attribute, _ATTRIBUTE_GRAPH)


def node(message: Message) -> Node:
    """Read a NodeProto."""
    texts: dict[int, list[str]] = {}
    for field, value in fields(message):
        if isinstance(value, Message) and field != NODE_ATTRIBUTE:
            texts.setdefault(field, []).append(value.text())
    inputs, outputs = tuple(texts.get(NODE_INPUT, ())), tuple(texts.get(NODE_OUTPUT, ()))
    op_type, domain = (next(iter(texts.get(field, ())), "") for field in (NODE_OP_TYPE, NODE_DOMAIN))
    return Node(message, op_type, domain, inputs, outputs)


def nodes(model: bytes) -> list[Node]:
    """Nodes of the model's graph, in its order."""
    return [node(message) for message in parts(model, GRAPH_NODE)]


def node_bytes(
    op_type: str, domain: str, inputs: Iterable[str], outputs: Iterable[str], numbers: Mapping[str, int]
) -> bytes:
    """Serialized NodeProto with whole numbers as attributes."""
    return b"".join((
        *(field_bytes(NODE_INPUT, name.encode()) for name in inputs),
        *(field_bytes(NODE_OUTPUT, name.encode()) for name in outputs),
        field_bytes(NODE_OP_TYPE, op_type.encode()),
        *(field_bytes(NODE_ATTRIBUTE, _number_bytes(name, value)) for name, value in numbers.items()),
        field_bytes(NODE_DOMAIN, domain.encode()),
    ))  # fmt: skip


def opset_bytes(domain: str, version: int) -> bytes:
    """Import of a domain's operators, to append to a serialized model."""
    pair = field_bytes(_OPSET_DOMAIN, domain.encode()) + field_bytes(_OPSET_VERSION, version)
    return field_bytes(_MODEL_OPSET, pair)


def graph_parts(model: bytes, wanted: Iterable[str], given: Container[str] = ()) -> Iterator[bytes]:
    """Fields of a graph that computes `wanted`: its nodes, and the initializers that they read; `given`: its inputs."""
    found, kept = set(wanted), []
    for each in reversed(nodes(model)):
        if not found.isdisjoint(each.outputs):
            found.update(name for name in each.reads() if name not in given)
            kept.append(field_bytes(GRAPH_NODE, each.message.copy()))
    yield from reversed(kept)
    for tensor in parts(model, GRAPH_INITIALIZER):
        if name_of(tensor, TENSOR_NAME) in found:
            yield field_bytes(GRAPH_INITIALIZER, tensor.copy())


def with_nodes(model: bytes, instead: Mapping[int, bytes]) -> bytes:
    """Copy of a model with other nodes, by where those begin that they stand for, without what nothing reads then."""
    before = nodes(model)
    after = [
        node(Message.whole(instead[each.message.start])) if each.message.start in instead else each for each in before
    ]
    read = {name_of(output, VALUE_NAME) for output in parts(model, GRAPH_OUTPUT)}
    dead = set()
    for old, new in zip(reversed(before), reversed(after), strict=True):
        if read.isdisjoint(new.outputs):
            dead.add(old.message.start)
        else:
            read.update(new.reads())

    def changed(field: int, value: Message) -> bytes | None:
        return instead.get(value.start) if field == GRAPH_NODE else None

    def left_out(field: int, value: Message) -> bool:
        if field == GRAPH_INITIALIZER:
            return name_of(value, TENSOR_NAME) not in read
        return field == GRAPH_NODE and value.start in dead

    return rewritten(
        Message.whole(model),
        lambda field, graph: rewritten(graph, changed, without=left_out) if field == MODEL_GRAPH else None,
    )


def without_graph(model: bytes) -> bytes:
    """The model's other fields: versions, operator sets, functions."""
    return rewritten(Message.whole(model), without=lambda number, _: number == MODEL_GRAPH)


def parts(model: bytes, field: int) -> Iterator[Message]:
    """Messages of one kind in the model's graph, which may come in pieces."""
    for graph in messages(Message.whole(model), MODEL_GRAPH):
        yield from messages(graph, field)


def messages(message: Message, field: int) -> Iterator[Message]:
    """Messages in one field."""
    return (value for number, value in fields(message) if number == field and isinstance(value, Message))


def names_of(message: Message, field: int) -> tuple[str, ...]:
    """Texts in one field."""
    return tuple(value.text() for value in messages(message, field))


def name_of(message: Message, field: int) -> str:
    """First text in one field; "": none."""
    return next(iter(names_of(message, field)), "")


def _attribute(attribute: Message) -> tuple[str, int | None]:
    number = next((value for field, value in fields(attribute) if field == _ATTRIBUTE_INT), None)
    return name_of(attribute, _ATTRIBUTE_NAME), number if isinstance(number, int) else None


def _number_bytes(name: str, value: int) -> bytes:
    return (
        field_bytes(_ATTRIBUTE_NAME, name.encode())
        + field_bytes(_ATTRIBUTE_INT, value)
        + field_bytes(_ATTRIBUTE_TYPE, _TYPE_INT)
    )
