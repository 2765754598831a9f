"""Attention over the KV cache in a serialized ONNX model: copies of the model with our operator in its place.

Operator: onnxruntime's com.microsoft GroupQueryAttention, with an int8 cache inside an If, as `exporters/onnx` writes
it; and Attention of `q3edge.kernels`, which takes a cache of either type and any number of tokens of each row, wherever
they lie among those of the pass.
"""

from __future__ import annotations

from dataclasses import replace

from q3edge.architecture.kv_cache import PAST_PREFIX
from q3edge.kernels.library import DOMAIN
from q3edge.runtime.session.graph_nodes import Graph, Node, nodes_of, numbers
from q3edge.runtime.session.idle_rows import QUERY_SEQLENS

_OPERATOR, _OPERATOR_DOMAIN, _OURS = "GroupQueryAttention", "com.microsoft", "Attention"
# Places of GroupQueryAttention's inputs, in the order of ours.
_QUERY, _KEY, _VALUE, _PAST_KEY, _PAST_VALUE, _SEQLENS_K, _COS, _SIN = 0, 1, 2, 3, 4, 5, 7, 8
_KEY_SCALE, _VALUE_SCALE, _QUERY_SEQLENS = 12, 13, 16
_HELD = (_QUERY, _KEY, _VALUE, _PAST_KEY, _PAST_VALUE, _SEQLENS_K, _QUERY_SEQLENS)
_KNOWN = {"num_heads", "kv_num_heads", "do_rotary", "k_quant_type", "v_quant_type", "kv_cache_bit_width"}
_STEP = "else_branch"  # of the If: few tokens, on the cache's own buffers


ROW_STARTS = "row_starts"  # int32 [batch_size]: where each row's new tokens begin among all of the pass


def attention_nodes(graph: Graph, common: dict[str, int]) -> list[Node]:
    """List our operator, with the attributes `common` too, for each place where it stands for onnxruntime's.

    Its mask is not read: the model's caller pads on the right alone, where the counts of new tokens say so.
    Where it is all of the graph's attention, it reads ROW_STARTS.
    """
    found = [ours for node in graph.nodes if (ours := _ours(node, common)) is not None]
    if len(found) < sum(_attends(node) for node in graph.nodes):
        return found
    place = len(_HELD)
    return [replace(node, inputs=(*node.inputs[:place], ROW_STARTS, *node.inputs[place + 1 :])) for node in found]


def _attends(node: Node) -> bool:
    branches = [each for graph in node.subgraphs().values() for each in nodes_of(graph)]
    return any(each.is_a(_OPERATOR, _OPERATOR_DOMAIN) for each in (node, *branches))


def _ours(node: Node, common: dict[str, int]) -> Node | None:
    operator = node
    if node.is_a("If"):
        branch = nodes_of(node.subgraphs()[_STEP])
        if len(branch) != 1 or len(node.outputs) != len(branch[0].outputs):
            return None
        operator = branch[0]
    if not operator.is_a(_OPERATOR, _OPERATOR_DOMAIN) or len(operator.inputs) <= _QUERY_SEQLENS:
        return None
    inputs, given = operator.inputs, operator.numbers
    if (
        inputs[_QUERY_SEQLENS] != QUERY_SEQLENS
        or not inputs[_PAST_KEY].startswith(PAST_PREFIX)
        or given["do_rotary"] != 1
    ):
        return None
    scales = (inputs[_KEY_SCALE], inputs[_VALUE_SCALE])
    held = [inputs[place] for place in _HELD]
    taken = (*held, "", inputs[_COS], inputs[_SIN], *(scales if any(scales) else ()))
    heads = {name: given[name] for name in ("num_heads", "kv_num_heads")}
    return Node(node.start, _OURS, DOMAIN, taken, node.outputs, numbers({**heads, **common}), node.name)
