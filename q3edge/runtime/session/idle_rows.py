"""Copy of an ONNX model in which a row of a pass may be idle: how many tokens each row brings is an input.

GroupQueryAttention has such an input from onnxruntime 1.32 on. No file has it, since other runtimes, and earlier
versions of this one, refuse it (docs/decisions/2026-11-29-one-engine-for-all-requests.md). Field numbers: onnx.proto.
"""

from __future__ import annotations

from q3edge.architecture.kv_cache import PAST_PREFIX
from q3edge.runtime.session.graph_input import INT32, graph_input
from q3edge.runtime.session.wire_format import Message, field_bytes, fields, rewritten

QUERY_SEQLENS = "query_seqlens"  # int32 [batch_size]: new tokens of each row; 0: the row is idle
_ATTENTION = b"GroupQueryAttention"
_PAST_KEY, _QUERY_SEQLENS = 3, 16  # places among the operator's inputs
_MODEL_GRAPH, _GRAPH_NODE = 7, 1
_NODE_INPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _ATTRIBUTE_GRAPH = 1, 4, 5, 6


def with_idle_rows(model: bytes) -> bytes:
    """Copy of a serialized ModelProto with query_seqlens as an input of the graph and of its attention.

    Only attention on the cache's own buffers gets it: with an int8 cache a long prompt is attended to on copies, by
    one row at a time or by rows that are all new, none of them idle. Without such attention the graph is as it was.
    """
    changed = rewritten(Message.whole(model), lambda field, part: _graph(part) if field == _MODEL_GRAPH else None)
    return model if len(changed) == len(model) else changed + graph_input(QUERY_SEQLENS, INT32, "batch_size")


def _graph(graph: Message) -> bytes:
    return rewritten(graph, lambda field, part: _node(part) if field == _GRAPH_NODE else None)


def _node(node: Message) -> bytes | None:
    if node.content.find(_ATTENTION, node.start, node.end) < 0:  # most nodes, told apart without reading them
        return None
    parts = [(field, part) for field, part in fields(node) if isinstance(part, Message)]
    if any(field == _NODE_OP_TYPE and part.copy() == _ATTENTION for field, part in parts):
        return _attention(node, [part.copy() for field, part in parts if field == _NODE_INPUT])
    return rewritten(node, lambda field, part: _attribute(part) if field == _NODE_ATTRIBUTE else None)


def _attribute(attribute: Message) -> bytes:
    return rewritten(attribute, lambda field, part: _graph(part) if field == _ATTRIBUTE_GRAPH else None)


def _attention(node: Message, inputs: list[bytes]) -> bytes | None:
    if (
        len(inputs) > _QUERY_SEQLENS
        or not inputs[_PAST_KEY:][:1]
        or not inputs[_PAST_KEY].startswith(PAST_PREFIX.encode())
    ):
        return None
    names = [b""] * (_QUERY_SEQLENS - len(inputs)) + [QUERY_SEQLENS.encode()]
    return node.copy() + b"".join(field_bytes(_NODE_INPUT, name) for name in names)
