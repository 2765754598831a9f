"""Dead matrices of an ONNX artifact: every code the same, every scale zero, or every float weight zero.

A dry run of the exporter says which tensor of the file holds which weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import MODEL_FILE, Manifest
from q3edge.errors import InputError
from q3edge.evaluation.validation.graph_file import read_graph
from q3edge.evaluation.validation.results import CheckResult
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.exporters.onnx.stored import TensorSpec
from q3edge.quantization.recipe import Recipe

_BLOCK_ROWS = 256
_OLD_TABLE_SUFFIX = "_rows"  # versions up to 2026-11-28 named the head's codes twice, once for the embedding
_SHOWN = 4
_EXPECTED: Mapping[str, int | None] = {"codes": None, "scales": 0, "values": 0}  # None: whatever the first is


def check_dead_matrices(folder: Path, config: Qwen3Config) -> CheckResult:
    """Check that the artifact in `folder`, opened and verified before, has no dead matrix; the value counts them."""
    dead = dead_matrices(folder, config)
    if not dead:
        return CheckResult("dead_matrices", "pass", 0.0, 0.0, "no matrix is all zero")
    names = ", ".join(dead[:_SHOWN]) + (", ..." if len(dead) > _SHOWN else "")
    reason = f"{len(dead)} weights are all zero: {names}; quantize and export again"
    return CheckResult("dead_matrices", "fail", float(len(dead)), 0.0, reason)


def dead_matrices(folder: Path, config: Qwen3Config) -> list[str]:
    """Names of the dead weights, in the graph's order. The first block that differs ends a reading, so it is fast.

    A quantized matrix of zeros has its zero point in every code, whatever the scales; so equal codes are the sign.
    InputError: not an ONNX model, or one with a tensor of weights that no export of its recipe has.
    """
    path = folder / MODEL_FILE
    graph, specs = read_graph(path), _expected_tensors(folder, config)
    dead: dict[str, None] = {}
    for tensor in graph.initializer:
        if not uses_external_data(tensor):
            continue
        spec = specs.get(tensor.name.removesuffix(_OLD_TABLE_SUFFIX))
        if spec is None:
            raise InputError(f"{path}: tensor {tensor.name!r} is of no export of its recipe; export again")
        if spec.part in _EXPECTED:
            for name, rows in _rows(spec, _values(tensor, path), config):
                if _is_constant(rows, _EXPECTED[spec.part]):
                    dead[name.removesuffix(".weight")] = None
    return list(dead)


def _expected_tensors(folder: Path, config: Qwen3Config) -> dict[str, TensorSpec]:
    recipe = Recipe.from_json(Manifest.load(folder).recipe)
    plan = dry_run(config, recipe.resolve(config), recipe.kv_cache)
    return {spec.name: spec for spec in plan.tensors}


def _values(tensor: onnx.TensorProto, model: Path) -> NDArray[np.generic]:
    where: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.memmap(model.parent / where["location"], dtype, "r", int(where.get("offset", 0)), tuple(tensor.dims))


def _rows(
    spec: TensorSpec, values: NDArray[np.generic], config: Qwen3Config
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Weights that a tensor holds, each with its rows."""
    shapes = tensor_shapes(config)
    if spec.is_transposed:
        values = values.T
    start = 0
    for name in spec.weights:
        stop = start + shapes[name][0]
        yield name, values[start:stop]
        start = stop


def _is_constant(values: NDArray[np.generic], expected: int | None) -> bool:
    """Tell whether every value is `expected`; None: the same as the first."""
    wanted = values.flat[0] if expected is None else expected
    return all(bool((values[row : row + _BLOCK_ROWS] == wanted).all()) for row in range(0, len(values), _BLOCK_ROWS))
