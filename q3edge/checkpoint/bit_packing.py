"""Codes packed into 32-bit words, the first in the lowest bits: as GPTQ, compressed-tensors and MLX have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.quantization.packing import pack_codes
from q3edge.quantization.tensor import UInt8Array

WORD_BITS = 32


def words(count: int, bits: int) -> int:
    """Number of 32-bit words that hold `count` codes."""
    return -(-count * bits // WORD_BITS)


def pack_words(codes: UInt8Array, bits: int) -> NDArray[np.int32]:
    """Pack uint8 [N, K] codes into int32 [N, ceil(K*bits/32)], first code in the lowest bits; the rest is zero."""
    packed = pack_codes(codes, bits)
    if missing := -packed.shape[1] % 4:
        packed = np.pad(packed, ((0, 0), (0, missing)))
    return np.ascontiguousarray(packed).view("<i4")


def unpack_words(packed: NDArray[Any], bits: int) -> UInt8Array:
    """Unpack contiguous int32 or uint32 [N, W] into uint8 codes [N, W*32/bits]; the caller cuts off the padding."""
    octets = packed.view(np.uint8)
    per_byte = 8 // bits
    if per_byte == 1:
        return octets
    codes = np.empty((*octets.shape, per_byte), np.uint8)
    for slot in range(per_byte):
        codes[:, :, slot] = (octets >> np.uint8(slot * bits)) & np.uint8((1 << bits) - 1)
    return codes.reshape(len(octets), octets.shape[1] * per_byte)
