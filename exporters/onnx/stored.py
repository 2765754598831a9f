"""Stored form of weights in the file beside the graph: names, types and shapes of the tensors that hold them.

Matrices that share an input and a scheme are stored as one, their rows one after another.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from q3edge.exporters.onnx.external_data import TensorSpec
from q3edge.quantization.scales import multiples_type
from q3edge.quantization.scheme import Scheme


def specs_of(names: tuple[str, ...], shape: tuple[int, int], scheme: Scheme | None) -> list[TensorSpec]:
    """Tensors of weights that are stored as one, [N, K] together; scheme None: they stay float."""
    if scheme is None:
        return float_specs(names, shape)
    return int8_specs(names, shape) if scheme.activations == "int8_per_token" else block_specs(names, shape, scheme)


def block_specs(names: tuple[str, ...], shape: tuple[int, int], scheme: Scheme) -> list[TensorSpec]:
    """Tensors of codes uint8 [N, K/G, G*bits/8], scales [N, K/G] and zero points.

    Scales are float16, or multiples of 2**exponents [N, 1]. Zero points are packed, uint8 [N, ceil(K/G*bits/8)], and
    absent in symmetric schemes.
    """
    rows, width = shape
    groups = scheme.groups(width)
    parts: dict[str, tuple[ir.DataType, tuple[int, ...]]] = {
        "codes": (ir.DataType.UINT8, (rows, groups, width // groups * scheme.bits // 8))
    }
    if scheme.scales == "float16":
        parts["scales"] = (ir.DataType.FLOAT16, (rows, groups))
    else:
        parts["scales"] = (ir.DataType.from_numpy(multiples_type(scheme)), (rows, groups))
        parts["exponents"] = (ir.DataType.INT8, (rows, 1))
    if not scheme.symmetric:
        parts["zero_points"] = (ir.DataType.UINT8, (rows, -(-groups * scheme.bits // 8)))
    return [_part(names, part, *found) for part, found in parts.items()]


def int8_specs(names: tuple[str, ...], shape: tuple[int, int]) -> list[TensorSpec]:
    """Tensors of codes int8 [K, N], as MatMulInteger takes no transpose, and scales float16 [N]."""
    rows, width = shape
    return [
        replace(_part(names, "codes", ir.DataType.INT8, (width, rows)), is_transposed=True),
        _part(names, "scales", ir.DataType.FLOAT16, (rows,)),
    ]


def float_specs(names: tuple[str, ...], shape: tuple[int, ...]) -> list[TensorSpec]:
    """Tensor of values float32 [N, K], or [N] of a vector, named by the label alone."""
    return [TensorSpec(label_of(names), "values", names, ir.DataType.FLOAT, shape)]


def label_of(names: tuple[str, ...]) -> str:
    """Label of weights stored as one: (…q_proj.weight, …k_proj.weight) -> …q_k_proj."""
    modules = [name.removesuffix(".weight") for name in names]
    if len(modules) == 1:
        return modules[0]
    parent = modules[0].rpartition(".")[0]
    stems = (module.rpartition(".")[2].removesuffix("_proj") for module in modules)
    return f"{parent}.{'_'.join(stems)}_proj"


def _part(names: tuple[str, ...], part: str, dtype: ir.DataType, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(f"{label_of(names)}.{part}", part, names, dtype, shape)
