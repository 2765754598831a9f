"""Dead weights of an ONNX artifact: zero, or alike throughout, where those of its reference are not.

A dry run of the exporter says which tensor of the file holds which weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import MODEL_FILE, Manifest
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError
from q3edge.evaluation.validation.graph_file import read_graph
from q3edge.evaluation.validation.results import CheckResult
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.exporters.onnx.stored import TensorSpec
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme

_BLOCK_ROWS = 256
_OLD_TABLE_SUFFIX = "_rows"  # versions up to 2026-11-28 named the head's codes twice, once for the embedding
_SHOWN = 4
_JUDGED = ("codes", "scales", "values")


def check_dead_matrices(folder: Path, config: Qwen3Config, reference: WeightSource | Path) -> CheckResult:
    """Check that the artifact in `folder`, opened and verified before, has no dead weight; the value counts them.

    reference: the float model, or the folder of another artifact. What is alike throughout there too is not dead.
    """
    alike = weights_alike(folder, config)
    dead = _not_alike_in(alike, folder, config, reference)
    if dead:
        names = ", ".join(dead[:_SHOWN]) + (", ..." if len(dead) > _SHOWN else "")
        reason = f"{len(dead)} weights are all zero or all alike: {names}; quantize and export again"
        return CheckResult("dead_matrices", "fail", float(len(dead)), 0.0, reason)
    reason = f"{len(alike)} weights are alike throughout, in the reference too" if alike else "no weight is all alike"
    return CheckResult("dead_matrices", "pass", 0.0, 0.0, reason)


def weights_alike(folder: Path, config: Qwen3Config) -> dict[str, bool]:
    """Weights that hold one value throughout: matrices of one code, of zero scales, or of one float, and zero vectors.

    In the graph's order, each with whether it is zero for certain. The first block that differs ends a reading, so it
    is fast. A quantized matrix of zeros has its zero point in every code, whatever the scales; so equal codes are the
    sign. InputError: not an ONNX model, one with a tensor of weights that no export of its recipe has, or one in which
    a weight of the model is nowhere: none goes unjudged.
    """
    path = folder / MODEL_FILE
    graph, specs, shapes = read_graph(path), _expected_tensors(folder, config), tensor_shapes(config)
    alike: dict[str, bool] = {}
    judged = set[str]()
    for tensor in graph.initializer:
        spec = specs.get(tensor.name.removesuffix(_OLD_TABLE_SUFFIX).removesuffix(".weight"))
        if spec is None and uses_external_data(tensor):
            raise InputError(f"{path}: tensor {tensor.name!r} is of no export of its recipe; export again")
        if spec is not None and spec.part in _JUDGED:
            judged |= {*spec.weights}
            for name, rows in spec.rows_of(_values(tensor, path), shapes):
                is_zero = spec.part != "codes" and not rows.flat[0]
                if _is_constant(rows) and (is_zero or (spec.part != "scales" and rows.ndim > 1)):
                    alike[name] = alike.get(name, False) or is_zero
    if missing := [name for name in shapes if name not in judged]:
        names = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise InputError(f"{path}: {len(missing)} weights are in no tensor of the graph: {names}; export again")
    return alike


def _not_alike_in(
    alike: Mapping[str, bool], folder: Path, config: Qwen3Config, reference: WeightSource | Path
) -> list[str]:
    """Modules of those weights that the reference has otherwise."""
    if isinstance(reference, Path):
        known = weights_alike(reference, config) if alike else {}
        dead = [name for name in alike if name not in known]
    else:
        schemes = Recipe.from_json(Manifest.load(folder).recipe).resolve(config)
        dead = [name for name, is_zero in alike.items() if not _is_alike(reference, name, schemes[name], is_zero)]
    return [name.removesuffix(".weight") for name in dead]


def _is_alike(reference: WeightSource, name: str, scheme: Scheme | None, is_zero: bool) -> bool:
    """Tell whether a float weight is all zero, or within a code of one value in every group of `scheme`."""
    shape = tensor_shapes(reference.config)[name]
    for start in range(0, shape[0], _BLOCK_ROWS):
        values = reference.read(name, slice(start, min(start + _BLOCK_ROWS, shape[0])))
        if is_zero:
            if values.any():
                return False
        elif scheme is None:
            if not _is_constant(values) or values.flat[0] != reference.read(name, slice(0, 1)).flat[0]:
                return False
        else:
            groups = values.reshape(len(values), scheme.groups(shape[1]), -1)
            step = np.abs(groups).max(axis=-1) / (2**scheme.bits - 1)
            if (np.ptp(groups, axis=-1) > step).any():
                return False
    return True


def _expected_tensors(folder: Path, config: Qwen3Config) -> dict[str, TensorSpec]:
    manifest = Manifest.load(folder)
    recipe = Recipe.from_json(manifest.recipe)
    plan = dry_run(config, recipe.resolve(config), recipe.kv_cache, manifest.experts)
    return {spec.name: spec for spec in plan.tensors}


def _values(tensor: onnx.TensorProto, model: Path) -> NDArray[np.generic]:
    if not uses_external_data(tensor):
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    where: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.memmap(model.parent / where["location"], dtype, "r", int(where.get("offset", 0)), tuple(tensor.dims))


def _is_constant(values: NDArray[np.generic]) -> bool:
    """Tell whether every value is the first."""
    first = values.flat[0]
    return all(bool((values[row : row + _BLOCK_ROWS] == first).all()) for row in range(0, len(values), _BLOCK_ROWS))
