"""Copy of an ONNX model in which the number of positions that get logits is an input.

In the file it is a constant, since an input with a default is refused by some runtimes
(docs/decisions/2026-11-29-a-graph-that-every-reader-takes.md). Field numbers: onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

import re

from q3edge.architecture.kv_cache import NUM_LOGITS_TO_KEEP
from q3edge.runtime.session.onnx_references import graph_names

_MODEL_GRAPH, _GRAPH_INPUT = 7, 11
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR = 1, 2, 1
_TENSOR_ELEMENTS, _TENSOR_SHAPE, _SHAPE_AXIS, _AXIS_SIZE = 1, 2, 1, 1
_INT64 = 7
# The output logits, float32 [batch_size, 1, ...], up to the 1 (dim_value), for which an empty name (dim_param) is put.
_ONE_POSITION = re.compile(
    rb"(\x0a\x06logits\x12.\x0a.\x08\x01\x12.\x0a\x0c\x12\x0abatch_size\x0a\x02)\x08\x01", re.DOTALL
)


def with_logits_to_keep(model: bytes) -> bytes:
    """Copy of a serialized ModelProto with num_logits_to_keep, int64 [1], as an input; its value is the default.

    Equal if the graph has no such constant, or has it as an input, as those of earlier versions do. The input is
    appended as a second piece of the graph: readers of protobuf merge the pieces of a message. Logits that the file
    says are of one position (`export --last-logits`) get an unknown number of them.
    """
    inputs, initializers = graph_names(model)
    if NUM_LOGITS_TO_KEEP in inputs or NUM_LOGITS_TO_KEEP not in initializers:
        return model
    shape = _message(_TENSOR_SHAPE, _message(_SHAPE_AXIS, _number(_AXIS_SIZE, 1)))
    tensor = _message(_TYPE_TENSOR, _number(_TENSOR_ELEMENTS, _INT64) + shape)
    name = _message(_VALUE_NAME, NUM_LOGITS_TO_KEEP.encode())
    graph_input = _message(_GRAPH_INPUT, name + _message(_VALUE_TYPE, tensor))
    return _ONE_POSITION.sub(lambda found: found[1] + b"\x12\x00", model) + _message(_MODEL_GRAPH, graph_input)


def _message(field: int, content: bytes) -> bytes:
    assert len(content) < 0x80  # the length takes one byte
    return bytes([field << 3 | 2, len(content)]) + content


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])
