"""A further input of a serialized ONNX model. Field numbers: onnx.proto (onnx/onnx.proto3)."""

from __future__ import annotations

from q3edge.runtime.session.wire_format import field_bytes

INT32, INT64 = 6, 7  # of TensorProto.DataType
_MODEL_GRAPH, _GRAPH_INPUT = 7, 11
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR = 1, 2, 1
_TENSOR_ELEMENTS, _TENSOR_SHAPE, _SHAPE_AXIS, _AXIS_SIZE, _AXIS_NAME = 1, 2, 1, 1, 2


def graph_input(name: str, data_type: int, size: int | str) -> bytes:
    """A second piece of the graph that declares a vector, to append to the model; `size`: a number or a name.

    Readers of protobuf merge the pieces of a message.
    """
    axis = field_bytes(_AXIS_SIZE, size) if isinstance(size, int) else field_bytes(_AXIS_NAME, size.encode())
    shape = field_bytes(_TENSOR_SHAPE, field_bytes(_SHAPE_AXIS, axis))
    tensor = field_bytes(_TYPE_TENSOR, field_bytes(_TENSOR_ELEMENTS, data_type) + shape)
    value = field_bytes(_VALUE_NAME, name.encode()) + field_bytes(_VALUE_TYPE, tensor)
    return field_bytes(_MODEL_GRAPH, field_bytes(_GRAPH_INPUT, value))
