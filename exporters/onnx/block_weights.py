"""Block-quantized matrices in a graph: their stored parts as values, their scales widened, and rows looked up.

A lookup is made of registered operators, which browsers and OpenVINO have as well as onnxruntime; its values equal
those of `QuantizedTensor.dequantize()` bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from q3edge.exporters.onnx.builder import GraphBuilder
from q3edge.quantization.scheme import Scheme

Operator = Callable[..., ir.Value]  # `GraphBuilder.op` or `GraphBuilder.folded`


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Block-quantized [N, K] matrix: codes uint8 [N, K/G, G*bits/8], packed zero points, scales as they are stored.

    scales: float16 or float32 [N, K/G], or multiples [N, K/G] and exponents [N, 1].
    """

    codes: ir.Value
    scales: tuple[ir.Value, ...]
    zero_points: ir.Value | None


def widened_scales(builder: GraphBuilder, stored: tuple[ir.Value, ...]) -> ir.Value:
    """Compute the scales of a whole matrix, float32 [N, K/G]; onnxruntime does it once, when it loads the model."""
    return _scales(builder.folded, builder.float32(2), stored)


def looked_up(builder: GraphBuilder, table: BlockWeights, scheme: Scheme, width: int, ids: ir.Value) -> ir.Value:
    """Dequantize the rows `ids` of a table: int64 [B, S] -> float32 [B, S, width].

    Only the rows are widened: the table's scales stay in memory as they are stored.
    """
    op, int64 = builder.op, builder.int64
    groups = scheme.groups(width)
    codes = _unpacked(builder, op("Gather", table.codes, ids), scheme.bits)
    codes = op("Reshape", codes, int64(0, 0, groups, width // groups))
    if table.zero_points is None:
        middle = builder.float32(scheme.implicit_zero_point)
    else:
        middle = _unpacked(builder, op("Gather", table.zero_points, ids), scheme.bits)
        stored = -(-groups * scheme.bits // 8) * 8 // scheme.bits
        middle = op("Reshape", middle, int64(0, 0, stored, 1))
        if stored > groups:  # codes that fill the last byte
            middle = op("Slice", middle, int64(0), int64(groups), int64(2))
    scales = _scales(op, builder.float32(2), tuple(op("Gather", part, ids) for part in table.scales))
    values = op("Mul", op("Sub", codes, middle), op("Unsqueeze", scales, int64(-1)))
    return op("Reshape", values, int64(0, 0, width))


def _scales(op: Operator, two: ir.Value, stored: tuple[ir.Value, ...]) -> ir.Value:
    """Compute float32 scales [..., K/G] from stored ones, or multiples x 2^exponents."""
    multiples, *exponents = (_widened(op, part) for part in stored)
    return op("Mul", multiples, op("Pow", two, exponents[0])) if exponents else multiples


def _widened(op: Operator, values: ir.Value) -> ir.Value:
    return op("Cast", values, to=ir.DataType.FLOAT)


def _unpacked(builder: GraphBuilder, packed: ir.Value, bits: int) -> ir.Value:
    """Unpack codes, the first in the lowest bits of a byte: uint8 [...] -> float32 [..., 8/bits], [...] for 8 bits.

    By a table of all bytes: OpenVINO 2026.4 computes another BitShift.
    """
    if bits == 8:
        return _widened(builder.op, packed)
    return builder.op("Gather", _codes_of_bytes(builder, bits), builder.op("Cast", packed, to=ir.DataType.INT32))


def _codes_of_bytes(builder: GraphBuilder, bits: int) -> ir.Value:
    """Compute the codes in each byte, float32 [256, 8/bits], in constants that onnxruntime folds at load."""
    folded, scalar = builder.folded, builder.float32
    size = float(1 << bits)
    shifts = builder.constant(2.0 ** -np.arange(0, 8, bits, dtype=np.float32))
    every_byte = folded("Unsqueeze", folded("Range", scalar(0.0), scalar(256.0), scalar(1.0)), builder.int64(1))
    shifted = folded("Floor", folded("Mul", every_byte, shifts))
    above = folded("Mul", folded("Floor", folded("Mul", shifted, scalar(1 / size))), scalar(size))
    return folded("Sub", shifted, above)
