"""Copy of an ONNX model in which the number of positions that get logits is an input.

In the file it is a constant, since an input with a default is refused by some runtimes
(docs/decisions/2026-11-29-a-graph-that-every-reader-takes.md).
"""

from __future__ import annotations

import re

from q3edge.architecture.kv_cache import NUM_LOGITS_TO_KEEP
from q3edge.runtime.session.graph_input import INT64, graph_input, graph_names

# The output logits, float32 [batch_size, 1, ...], up to the 1 (dim_value), for which an empty name (dim_param) is put.
_ONE_POSITION = re.compile(
    rb"(\x0a\x06logits\x12.\x0a.\x08\x01\x12.\x0a\x0c\x12\x0abatch_size\x0a\x02)\x08\x01", re.DOTALL
)


def with_logits_to_keep(model: bytes) -> bytes:
    """Copy of a serialized ModelProto with num_logits_to_keep, int64 [1], as an input; its value is the default.

    Equal if the graph has no such constant, or has it as an input, as those of earlier versions do. Logits that
    the file says are of one position (`export --last-logits`) get an unknown number of them.
    """
    inputs, initializers = graph_names(model)
    if NUM_LOGITS_TO_KEEP in inputs or NUM_LOGITS_TO_KEEP not in initializers:
        return model
    changed = _ONE_POSITION.sub(lambda found: found[1] + b"\x12\x00", model)
    return changed + graph_input(NUM_LOGITS_TO_KEEP, INT64, 1)
