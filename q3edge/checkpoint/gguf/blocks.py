"""Blocks of 32 codes in GGUF <-> codes and scales: Q4_0, Q4_1 and Q8_0 (ggml's block_q4_0, block_q4_1, block_q8_0).

A block of 4 bits has the codes of its first half in the low halves of its bytes, those of the second in the high ones.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from q3edge.quantization.tensor import UInt8Array

GROUP: Final = 32
Float16Array = NDArray[np.float16]


def unpack_q4(blocks: UInt8Array, head: int) -> UInt8Array:
    """Unpack uint8 [n, G, head + 16] into codes uint8 [n, 32 G]; `head`: bytes before the codes."""
    octets = blocks[:, :, head:]
    return np.concatenate([octets & 15, octets >> 4], axis=2).reshape(len(blocks), -1)


def unpack_q8(blocks: UInt8Array) -> UInt8Array:
    """Unpack uint8 [n, G, 34] of int8 codes into uint8 [n, 32 G], 128 more."""
    return (blocks[:, :, 2:] ^ np.uint8(128)).reshape(len(blocks), -1)


def halves(blocks: UInt8Array, place: int) -> Float16Array:
    """Read the float16 that begins at byte `place` of each block: float16 [n, G]."""
    return np.ascontiguousarray(blocks[:, :, place : place + 2]).view("<f2")[:, :, 0]


def pack_q4(codes: UInt8Array, *numbers: Float16Array) -> UInt8Array:
    """Pack codes uint8 [n, K] behind the numbers float16 [n, K/32] of each block: uint8 [n, bytes of a row]."""
    grouped = codes.reshape(len(codes), -1, GROUP)
    return _joined(numbers, grouped[:, :, : GROUP // 2] | grouped[:, :, GROUP // 2 :] << np.uint8(4))


def pack_q8(codes: UInt8Array, scales: Float16Array) -> UInt8Array:
    """Pack codes uint8 [n, K], 128 more than the int8 that are stored, behind float16 scales [n, K/32]."""
    return _joined((scales,), (codes ^ np.uint8(128)).reshape(len(codes), -1, GROUP))


def _joined(numbers: tuple[Float16Array, ...], octets: UInt8Array) -> UInt8Array:
    heads = [np.ascontiguousarray(number, "<f2")[:, :, None].view(np.uint8) for number in numbers]
    return np.concatenate([*heads, octets], axis=2).reshape(len(octets), -1)
