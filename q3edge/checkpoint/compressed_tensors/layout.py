"""One quantized matrix <-> the tensors that compressed-tensors stores for it. Pure numpy; reads and writes no file.

pack-quantized: `weight_packed` int32, `weight_scale`, `weight_shape`, `weight_zero_point` int32 packed along dim 0.
int-quantized: `weight` int8, `weight_scale`, `weight_zero_point` int8. Source: compressed_tensors.compressors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.tensors import EMBEDDING, LM_HEAD
from q3edge.checkpoint.bit_packing import WORD_BITS, pack_words, unpack_words, words
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor, UInt8Array

PACKED, PLAIN = "pack-quantized", "int-quantized"
_FLOATS = {"float16": "F16", "float32": "F32"}
ReadRows = Callable[[str, slice], NDArray[Any]]  # (part, rows) -> stored values


def format_of(name: str, scheme: Scheme) -> str:
    """Name of the library's format for a tensor: int-quantized or pack-quantized.

    An embedding is int-quantized: transformers needs a `weight` there, to initialize it and to tie it to the head.
    Weights whose layer rounds its input too are int-quantized by the library's own convention (W8A8).
    """
    return PLAIN if name == EMBEDDING or scheme.activations != "float" else PACKED


def stored_parts(name: str, shape: tuple[int, ...], scheme: Scheme) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Stored parts of an [N, K] matrix: part ("weight_packed", ...) -> (dtype, shape)."""
    rows, width = shape
    groups = scheme.groups(width)
    parts: dict[str, tuple[str, tuple[int, ...]]] = {"weight_scale": (_FLOATS[scheme.scale_dtype], (rows, groups))}
    if format_of(name, scheme) == PLAIN:
        parts["weight"] = ("I8", (rows, width))
        zero_points = ("I8", (rows, groups))
    else:
        parts["weight_packed"] = ("I32", (rows, words(width, scheme.bits)))
        parts["weight_shape"] = ("I64", (2,))
        zero_points = ("I32", (words(rows, scheme.bits), groups))
    if not scheme.symmetric:
        parts["weight_zero_point"] = zero_points
    return parts


def stored_tensors(
    name: str, shape: tuple[int, ...], scheme: Scheme, tied: bool
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Stored tensors of one quantized matrix: stored name -> (dtype, shape).

    A tied head shares the embedding's `weight`, as transformers ties it, but each module needs scales of its own.
    """
    parts = stored_parts(name, shape, scheme)
    stored = {stored_name(name, part): entry for part, entry in parts.items()}
    if tied and name == EMBEDDING:
        stored |= {stored_name(LM_HEAD, part): entry for part, entry in parts.items() if part != "weight"}
    return stored


def stored_name(name: str, part: str) -> str:
    """Name of a stored part: 'model.norm.weight', 'weight_scale' -> 'model.norm.weight_scale'."""
    return name.removesuffix("weight") + part


def encode(name: str, block: QuantizedTensor) -> dict[str, NDArray[Any]]:
    """Encode a block of rows: part -> stored values. For packed zero points it must start at a multiple of 32 rows.

    Signed codes of the library are ours minus 2**(bits-1); packing adds that again, so packed bits are our codes.
    """
    bits, zero_points = block.scheme.bits, block.zero_points
    parts: dict[str, NDArray[Any]] = {"weight_scale": block.scales}
    if format_of(name, block.scheme) == PLAIN:
        parts["weight"] = _to_signed(block.codes, bits)
        if zero_points is not None:
            parts["weight_zero_point"] = _to_signed(zero_points, bits)
    else:
        parts["weight_packed"] = pack_words(block.codes, bits)
        if zero_points is not None:
            parts["weight_zero_point"] = np.ascontiguousarray(pack_words(zero_points.T, bits).T)
    return parts


def decode(name: str, scheme: Scheme, width: int, read: ReadRows, rows: slice) -> QuantizedTensor:
    """Decode the rows start:stop of an [N, width] matrix, whose stored parts `read` gives; the inverse of `encode`.

    Values are not checked: damaged files give codes above `scheme.max_code` or scales that are not finite.
    """
    bits, zero_points = scheme.bits, None
    scales = read("weight_scale", rows)
    if format_of(name, scheme) == PLAIN:
        codes = _to_unsigned(read("weight", rows), bits)
        if not scheme.symmetric:
            zero_points = _to_unsigned(read("weight_zero_point", rows), bits)
    else:
        codes = unpack_words(read("weight_packed", rows), bits)[:, :width]
        if not scheme.symmetric:
            first = rows.start * bits // WORD_BITS
            stored = read("weight_zero_point", slice(first, words(rows.stop, bits)))
            skip = rows.start - first * WORD_BITS // bits
            unpacked = unpack_words(np.ascontiguousarray(stored.T), bits).T
            zero_points = np.ascontiguousarray(unpacked[skip : skip + rows.stop - rows.start])
    return QuantizedTensor(codes, scales, zero_points, scheme)


def _to_signed(codes: UInt8Array, bits: int) -> NDArray[np.int8]:
    return (codes - np.uint8(1 << (bits - 1))).view(np.int8)  # wraps below zero, which is the two's complement


def _to_unsigned(signed: NDArray[np.int8], bits: int) -> UInt8Array:
    return signed.view(np.uint8) + np.uint8(1 << (bits - 1))
