"""Nodes of a serialized ONNX model: what they read and make, parts of the model that compute some values, dead parts.

Field numbers are those of onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from q3edge.runtime.session.wire_format import Message, field_bytes, fields, rewritten

MODEL_GRAPH, GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 7, 1, 2, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
TENSOR_NAME, VALUE_NAME = 8, 1
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TYPE, _TYPE_INT = 1, 3, 6, 20, 2
_MODEL_OPSET, _OPSET_DOMAIN, _OPSET_VERSION = 8, 1, 2


@dataclass(frozen=True, slots=True)
class Node:
    """Node of a graph: names of its inputs ("": left out) and outputs, and its attributes, serialized.

    start: where it begins in the model that it was read from, or that of the node whose place it takes.
    """

    start: int
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[bytes, ...] = ()
    name: str = ""

    @classmethod
    def read(cls, message: Message) -> Node:
        """Read a NodeProto."""
        texts: dict[int, list[str]] = {}
        attributes = []
        for field, value in fields(message):
            if isinstance(value, Message):
                if field == NODE_ATTRIBUTE:
                    attributes.append(value.copy())
                else:
                    texts.setdefault(field, []).append(value.text())
        inputs, outputs = tuple(texts.get(NODE_INPUT, ())), tuple(texts.get(NODE_OUTPUT, ()))
        op_type, domain, name = (texts.get(field, [""])[0] for field in (NODE_OP_TYPE, NODE_DOMAIN, NODE_NAME))
        return cls(message.start, op_type, domain, inputs, outputs, tuple(attributes), name)

    def serialized(self) -> bytes:
        """Bytes of the NodeProto."""
        return b"".join((
            *(field_bytes(NODE_INPUT, each.encode()) for each in self.inputs),
            *(field_bytes(NODE_OUTPUT, each.encode()) for each in self.outputs),
            field_bytes(NODE_NAME, self.name.encode()),
            field_bytes(NODE_OP_TYPE, self.op_type.encode()),
            *(field_bytes(NODE_ATTRIBUTE, each) for each in self.attributes),
            field_bytes(NODE_DOMAIN, self.domain.encode()),
        ))  # fmt: skip

    def is_a(self, op_type: str, domain: str = "") -> bool:
        """Tell whether it is this operator."""
        return (self.op_type, self.domain) == (op_type, domain)

    def attribute(self, name: str) -> bytes | None:
        """An attribute, serialized; None: it has its default."""
        return next((each for each in self.attributes if name_of(Message.whole(each), _ATTRIBUTE_NAME) == name), None)

    @property
    def names(self) -> frozenset[str]:
        """Names of its attributes."""
        return frozenset(name_of(Message.whole(each), _ATTRIBUTE_NAME) for each in self.attributes)

    @property
    def numbers(self) -> dict[str, int]:
        """Attributes that are whole numbers."""
        pairs = (_number(Message.whole(each)) for each in self.attributes)
        return {name: value for name, value in pairs if value is not None}

    def reads(self) -> Iterator[str]:
        """Names of all values that it reads, those that its subgraphs read from outside among them."""
        yield from filter(None, self.inputs)
        for graph in self.subgraphs().values():
            for node in nodes_of(graph):
                yield from node.reads()
            for output in messages(graph, GRAPH_OUTPUT):
                yield name_of(output, VALUE_NAME)

    def subgraphs(self) -> dict[str, Message]:
        """Graphs among its attributes, by name."""
        whole = map(Message.whole, self.attributes)
        return {name_of(each, _ATTRIBUTE_NAME): graph for each in whole for graph in messages(each, _ATTRIBUTE_GRAPH)}


def nodes_of(graph: Message) -> list[Node]:
    """Nodes of a graph, in its order."""
    return [Node.read(message) for message in messages(graph, GRAPH_NODE)]


def numbers(values: Mapping[str, int]) -> tuple[bytes, ...]:
    """Attributes that are whole numbers, serialized."""
    return tuple(
        field_bytes(_ATTRIBUTE_NAME, name.encode())
        + field_bytes(_ATTRIBUTE_INT, value)
        + field_bytes(_ATTRIBUTE_TYPE, _TYPE_INT)
        for name, value in values.items()
    )


def opset_bytes(domain: str, version: int) -> bytes:
    """Import of a domain's operators, to append to a serialized model."""
    pair = field_bytes(_OPSET_DOMAIN, domain.encode()) + field_bytes(_OPSET_VERSION, version)
    return field_bytes(_MODEL_OPSET, pair)


class Graph:
    """Graph of a serialized model, read once for many questions; its nodes can be exchanged for others."""

    def __init__(self, model: bytes) -> None:
        """Read the nodes of `model`."""
        self._model = model
        self.nodes: list[Node] = []  # in the graph's order
        self.makers: dict[str, Node] = {}  # by what they make
        self._set([Node.read(message) for message in parts(model, GRAPH_NODE)])
        self.outputs = frozenset(name_of(output, VALUE_NAME) for output in parts(model, GRAPH_OUTPUT))

    def exchange(self, changed: Iterable[Node]) -> None:
        """Put nodes in the places where theirs begin; one that makes nothing is left out."""
        instead = {node.start: node for node in changed}
        self._set([instead.get(node.start, node) for node in self.nodes])

    def computing(self, wanted: Iterable[str], given: Container[str] = ()) -> Iterator[bytes]:
        """Fields of a graph that computes `wanted`: nodes, and the initializers that they read; `given`: its inputs."""
        kept: dict[int, Node] = {}
        open_names, seen = list(wanted), set[str]()
        while open_names:
            name = open_names.pop()
            if name in seen or name in given:
                continue
            seen.add(name)
            if (node := self.makers.get(name)) is not None and node.start not in kept:
                kept[node.start] = node
                open_names.extend(node.reads())
        yield from (field_bytes(GRAPH_NODE, kept[start].serialized()) for start in sorted(kept))
        for name in sorted(seen & self._initializers.keys()):
            yield field_bytes(GRAPH_INITIALIZER, self._initializers[name].copy())

    def serialized(self) -> bytes:
        """Copy of the model with these nodes, without what nothing reads."""
        read, kept = set(self.outputs), {}
        for node in reversed(self.nodes):
            if not read.isdisjoint(node.outputs):
                read.update(node.reads())
                kept[node.start] = node

        def change(field: int, value: Message) -> bytes | None:
            return kept[value.start].serialized() if field == GRAPH_NODE and value.start in kept else None

        def left_out(field: int, value: Message) -> bool:
            if field == GRAPH_INITIALIZER:
                return name_of(value, TENSOR_NAME) not in read
            return field == GRAPH_NODE and value.start not in kept

        return rewritten(
            Message.whole(self._model),
            lambda field, graph: rewritten(graph, change, without=left_out) if field == MODEL_GRAPH else None,
        )

    def _set(self, nodes: list[Node]) -> None:
        self.nodes, self.makers = nodes, {output: node for node in nodes for output in node.outputs}

    @cached_property
    def _initializers(self) -> dict[str, Message]:
        return {name_of(tensor, TENSOR_NAME): tensor for tensor in parts(self._model, GRAPH_INITIALIZER)}


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


def _number(attribute: Message) -> tuple[str, int | None]:
    number = next((value for field, value in fields(attribute) if field == _ATTRIBUTE_INT), None)
    return name_of(attribute, _ATTRIBUTE_NAME), number if isinstance(number, int) else None
