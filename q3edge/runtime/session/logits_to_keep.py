"""Copy of an ONNX model in which the number of positions that get logits is an input.

In the file it is a constant, since an input with a default is refused by some runtimes
(docs/decisions/2026-11-29-a-graph-that-every-reader-takes.md). Field numbers: onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

from q3edge.architecture.kv_cache import NUM_LOGITS_TO_KEEP
from q3edge.runtime.session.onnx_references import graph_names

_MODEL_GRAPH, _GRAPH_INPUT = 7, 11
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR = 1, 2, 1
_TENSOR_ELEMENTS, _TENSOR_SHAPE, _SHAPE_AXIS, _AXIS_SIZE = 1, 2, 1, 1
_INT64 = 7


def with_logits_to_keep(model: bytes) -> bytes:
    """Copy of a serialized ModelProto with num_logits_to_keep, int64 [1], as an input; its value is the default.

    Equal if the graph has no such constant, or has it as an input, as those of earlier versions do. The input is
    appended as a second piece of the graph: readers of protobuf merge the pieces of a message.
    """
    inputs, initializers = graph_names(model)
    if NUM_LOGITS_TO_KEEP in inputs or NUM_LOGITS_TO_KEEP not in initializers:
        return model
    shape = _message(_TENSOR_SHAPE, _message(_SHAPE_AXIS, _number(_AXIS_SIZE, 1)))
    tensor = _message(_TYPE_TENSOR, _number(_TENSOR_ELEMENTS, _INT64) + shape)
    name = _message(_VALUE_NAME, NUM_LOGITS_TO_KEEP.encode())
    return model + _message(_MODEL_GRAPH, _message(_GRAPH_INPUT, name + _message(_VALUE_TYPE, tensor)))


def _message(field: int, content: bytes) -> bytes:
    assert len(content) < 0x80  # the length takes one byte
    return bytes([field << 3 | 2, len(content)]) + content


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])
