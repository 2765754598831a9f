"""Inputs of a serialized ONNX model: the names of those that it has, and a further one.

Field numbers: onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Iterable

from q3edge.runtime.session.wire_format import Message, field_bytes, fields

FLOAT32, INT32, INT64 = 1, 6, 7  # of TensorProto.DataType
_MODEL_GRAPH, _GRAPH_INITIALIZER, _GRAPH_INPUT, _TENSOR_NAME = 7, 5, 11, 8
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR = 1, 2, 1
_TENSOR_ELEMENTS, _TENSOR_SHAPE, _SHAPE_AXIS, _AXIS_SIZE, _AXIS_NAME = 1, 2, 1, 1, 2


def graph_names(model: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the graph's inputs and of its initializers, in a serialized model that was checked before."""
    graphs = [part for field, part in fields(Message.whole(model)) if field == _MODEL_GRAPH]
    parts = [pair for graph in graphs if isinstance(graph, Message) for pair in fields(graph)]
    return _names(parts, _GRAPH_INPUT, _VALUE_NAME), _names(parts, _GRAPH_INITIALIZER, _TENSOR_NAME)


def graph_input(name: str, data_type: int, size: int | str) -> bytes:
    """A second piece of the graph that declares a vector, to append to the model; `size`: a number or a name.

    Readers of protobuf merge the pieces of a message.
    """
    axis = field_bytes(_AXIS_SIZE, size) if isinstance(size, int) else field_bytes(_AXIS_NAME, size.encode())
    shape = field_bytes(_TENSOR_SHAPE, field_bytes(_SHAPE_AXIS, axis))
    return field_bytes(_MODEL_GRAPH, field_bytes(_GRAPH_INPUT, value_info(name, data_type, shape)))


def value_info(name: str, data_type: int, shape: bytes = b"") -> bytes:
    """Serialized ValueInfoProto of a tensor; without the field of a shape it may have any."""
    tensor = field_bytes(_TYPE_TENSOR, field_bytes(_TENSOR_ELEMENTS, data_type) + shape)
    return field_bytes(_VALUE_NAME, name.encode()) + field_bytes(_VALUE_TYPE, tensor)


def _names(parts: Iterable[tuple[int, int | Message]], field: int, name_field: int) -> frozenset[str]:
    messages = [part for number, part in parts if number == field and isinstance(part, Message)]
    names = (value for message in messages for number, value in fields(message) if number == name_field)
    return frozenset(name.text() for name in names if isinstance(name, Message))
