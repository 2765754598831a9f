"""Matrices of an ONNX artifact that hold nothing: every code the same, every scale zero, or every float weight zero.

Names of stored tensors are exporters/onnx's: `.codes`, `.codes_rows` (the same bytes as a table), `.scales`, `.weight`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import MODEL_FILE
from q3edge.errors import InputError
from q3edge.evaluation.validation.results import CheckResult

_BLOCK_ROWS = 256
_SHOWN = 4


def check_dead_matrices(folder: Path, config: Qwen3Config) -> CheckResult:
    """The artifact in `folder`, opened and verified before, has no dead matrix; the value is how many it has."""
    dead = dead_matrices(folder, config)
    if not dead:
        return CheckResult("dead_matrices", "pass", 0.0, 0.0, "no matrix is all zero")
    names = ", ".join(dead[:_SHOWN]) + (", ..." if len(dead) > _SHOWN else "")
    reason = f"{len(dead)} weights are all zero: {names}; quantize and export again"
    return CheckResult("dead_matrices", "fail", float(len(dead)), 0.0, reason)


def dead_matrices(folder: Path, config: Qwen3Config) -> list[str]:
    """Names of the dead weights, in the graph's order. A block's first difference ends its reading, so it is fast.

    A quantized matrix of zeros has its zero point in every code, whatever the scales; so all codes alike is the sign.
    InputError: not an ONNX model.
    """
    path = folder / MODEL_FILE
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError is not a public class
        raise InputError(f"{path}: not an ONNX model ({error}); export again") from None
    dead: dict[str, None] = {}
    for tensor in graph.initializer:
        label, _, part = tensor.name.rpartition(".")
        if part not in ("codes", "codes_rows", "scales", "weight"):
            continue
        values = _values(tensor, path)
        if part == "codes" and values.ndim == 2:
            values = values.T  # int8 [K, N]: MatMulInteger takes no transpose
        for name, rows in _unfused(label, values, config):
            if _is_constant(rows, None if part.startswith("codes") else 0):
                dead[name] = None
    return list(dead)


def _values(tensor: onnx.TensorProto, model: Path) -> NDArray[np.generic]:
    if not uses_external_data(tensor):
        inline: NDArray[np.generic] = numpy_helper.to_array(tensor)
        return inline
    where: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.memmap(model.parent / where["location"], dtype, "r", int(where.get("offset", 0)), tuple(tensor.dims))


def _unfused(label: str, values: NDArray[np.generic], config: Qwen3Config) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The weights that were stored as one because they read the same input, each with its rows."""
    module, _, name = label.rpartition(".")
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    parts = {
        "q_k_v_proj": {"q_proj": queries, "k_proj": keys, "v_proj": keys},
        "gate_up_proj": {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size},
    }.get(name, {name: len(values)})
    start = 0
    for part, rows in parts.items():
        yield f"{module}.{part}", values[start : start + rows]
        start += rows


def _is_constant(values: NDArray[np.generic], expected: int | None) -> bool:
    """Every value is `expected`; None: whatever the first is."""
    wanted = values.flat[0] if expected is None else expected
    return all(bool((values[row : row + _BLOCK_ROWS] == wanted).all()) for row in range(0, len(values), _BLOCK_ROWS))
