"""Stored form of weights in the file beside the graph: names, types and shapes of the tensors that hold them.

Matrices that share an input and a scheme are stored as one, their rows one after another. Sizes are known without a
graph, so this module needs no package of ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.quantization.scales import multiples_type
from q3edge.quantization.scheme import Scheme


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Stored tensor: one part of one or more of the model's weights, their rows one after another.

    part: "codes", "scales", "exponents", "zero_points", or "values" where the weights stay float.
    is_transposed: rows of weights are its columns.
    in_turn: so many weights after each other give their rows in turn: the first row of each, then the second of each.
    """

    name: str
    part: str
    weights: tuple[str, ...]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_transposed: bool = False
    in_turn: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return prod(self.shape) * self.dtype.itemsize

    def rows_of(
        self, values: NDArray[np.generic], shapes: Mapping[str, tuple[int, ...]]
    ) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield the weights in a tensor of this kind, each with its rows of `values`; shapes: of the weights."""
        rows = values.T if self.is_transposed else values
        if rows.ndim > 2:
            rows = rows.reshape(sum(shapes[name][0] for name in self.weights), -1)
        start = 0
        for first in range(0, len(self.weights), self.in_turn):
            names = self.weights[first : first + self.in_turn]
            stop = start + sum(shapes[name][0] for name in names)
            for place, name in enumerate(names):
                yield name, rows[start + place : stop : self.in_turn]
            start = stop


def weight_bytes(config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> dict[str, int]:
    """Bytes of every weight of the model by name: its codes, scales and zero points, or its float32 values.

    Each as a tensor of its own; experts' operator may store a scale more than once (`expert_matrices`).
    """
    shapes = tensor_shapes(config)
    return {
        name: 4 * shape[0] if len(shape) == 1 else group_bytes(shapes, (name,), schemes[name])
        for name, shape in shapes.items()
    }


def group_bytes(shapes: Mapping[str, tuple[int, ...]], names: tuple[str, ...], scheme: Scheme | None) -> int:
    """Bytes in the file of weights of matrices that share an input and `scheme`, or of a table alone."""
    rows, width = sum(shapes[name][0] for name in names), shapes[names[0]][1]
    return sum(spec.nbytes for spec in specs_of(names, (rows, width), scheme))


def specs_of(names: tuple[str, ...], shape: tuple[int, int], scheme: Scheme | None) -> list[TensorSpec]:
    """Tensors of weights that are stored as one, [N, K] together; scheme None: they stay float."""
    if scheme is None:
        return float_specs(names, shape)
    specs = int8_specs if scheme.activations == "int8_per_token" else block_specs
    return specs(names, shape, scheme)


def block_specs(names: tuple[str, ...], shape: tuple[int, int], scheme: Scheme) -> list[TensorSpec]:
    """Tensors of codes uint8 [N, K/G, G*bits/8], scales [N, K/G] and zero points.

    Scales are float16, float32, or multiples of 2**exponents [N, 1]. Zero points are packed, uint8
    [N, ceil(K/G*bits/8)], and absent in symmetric schemes.
    """
    rows, width = shape
    groups = scheme.groups(width)
    parts: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "codes": (np.dtype(np.uint8), (rows, groups, width // groups * scheme.bits // 8))
    }
    if scheme.scales == "int8":
        parts["scales"] = (multiples_type(scheme), (rows, groups))
        parts["exponents"] = (np.dtype(np.int8), (rows, 1))
    else:
        parts["scales"] = (np.dtype(scheme.scale_dtype), (rows, groups))
    if not scheme.symmetric:
        parts["zero_points"] = (np.dtype(np.uint8), (rows, -(-groups * scheme.bits // 8)))
    return [_part(names, part, *found) for part, found in parts.items()]


def int8_specs(names: tuple[str, ...], shape: tuple[int, int], scheme: Scheme) -> list[TensorSpec]:
    """Tensors of codes int8 [K, N], as MatMulInteger takes no transpose, and scales [N]."""
    rows, width = shape
    return [
        replace(_part(names, "codes", np.dtype(np.int8), (width, rows)), is_transposed=True),
        _part(names, "scales", np.dtype(scheme.scale_dtype), (rows,)),
    ]


def expert_specs(
    label: str, experts: Sequence[tuple[str, ...]], shape: tuple[int, int, int], scheme: Scheme | None
) -> list[TensorSpec]:
    """Tensors of all experts' matrices, [E, N, K] together: as of one matrix [E * N, K], cut into experts.

    experts: for each, its matrices whose rows come in turn. Codes are uint8 [E, N, K*bits/8], scales [E, N, K/G].
    """
    count, rows, width = shape
    names = tuple(name for matrices in experts for name in matrices)
    return [
        replace(
            spec,
            name=label if scheme is None else f"{label}.{spec.part}",
            shape=(count, rows, prod(spec.shape[1:])),
            in_turn=len(experts[0]),
        )
        for spec in specs_of(names, (count * rows, width), scheme)
    ]


def float_specs(names: tuple[str, ...], shape: tuple[int, ...]) -> list[TensorSpec]:
    """Tensor of values float32 [N, K], or [N] of a vector, named by the label alone."""
    return [TensorSpec(label_of(names), "values", names, np.dtype(np.float32), shape)]


def label_of(names: tuple[str, ...]) -> str:
    """Label of weights stored as one: (…q_proj.weight, …k_proj.weight) -> …q_k_proj."""
    modules = [name.removesuffix(".weight") for name in names]
    if len(modules) == 1:
        return modules[0]
    parent = modules[0].rpartition(".")[0]
    stems = (module.rpartition(".")[2].removesuffix("_proj") for module in modules)
    return f"{parent}.{'_'.join(stems)}_proj"


def _part(names: tuple[str, ...], part: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(f"{label_of(names)}.{part}", part, names, dtype, shape)
