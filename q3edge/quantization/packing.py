"""Packing of integer codes into the bytes of onnxruntime's block-quantized operators; pure numpy.

Layout: operator schemas of com.microsoft MatMulNBits and GatherBlockQuantized, which read the same bytes.
"""

from __future__ import annotations

import numpy as np

from q3edge.quantization.tensor import QuantizedTensor, UInt8Array


def pack_codes(codes: UInt8Array, bits: int) -> UInt8Array:
    """Pack uint8 [N, K] codes into uint8 [N, ceil(K*bits/8)], first code in the lowest bits of each byte.

    bits: 2, 4 or 8. A row that does not fill its last byte is padded with zero bits.
    """
    per_byte = 8 // bits
    if per_byte == 1:
        return codes
    rows, width = codes.shape
    if width % per_byte:
        codes = np.pad(codes, ((0, 0), (0, -width % per_byte)))
    slots = codes.reshape(rows, -1, per_byte)
    packed = slots[:, :, 0].copy()
    for slot in range(1, per_byte):
        packed |= slots[:, :, slot] << np.uint8(slot * bits)
    return packed


def pack_blocks(tensor: QuantizedTensor) -> UInt8Array:
    """Pack codes as B of MatMulNBits, uint8 [N, K/G, G*bits/8]; as [N, K*bits/8], data of GatherBlockQuantized."""
    groups = tensor.scales.shape[1]
    return pack_codes(tensor.codes, tensor.scheme.bits).reshape(tensor.shape[0], groups, -1)


def pack_zero_points(zero_points: UInt8Array, bits: int) -> UInt8Array:
    """Pack uint8 [N, K/G] into uint8 [N, ceil(K/G*bits/8)]; each row is padded to whole bytes."""
    return pack_codes(zero_points, bits)
