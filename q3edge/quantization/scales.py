"""Storable scales: any float16 or float32 where `Scheme.scales` says so, else 8-bit multiples of a power of two.

Each row of multiples has its own power of two, so that an exporter stores 8 bits per group and 8 per row. Multiples are
int8 in symmetric schemes, whose scales have either sign, and uint8 in asymmetric ones: float16 and bfloat16 hold them
exactly.
A second level of quantization, as in QLoRA (arXiv 2305.14314) and llama.cpp's K-quants. Pure numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import ScaleArray

_SMALLEST_EXPONENT = -24  # 2**-24 is float16's smallest number
_FLOAT16_BITS = 16  # 2**16 is more than it holds, any multiple of fewer bits is not
_FLOAT16 = np.finfo(np.float16)
_SMALLEST_FLOAT16, _LARGEST_FLOAT16 = np.float32(_FLOAT16.smallest_subnormal), np.float32(_FLOAT16.max)


def storable_scales(scales: NDArray[np.float32], scheme: Scheme, *, up: bool = False) -> NDArray[np.float32]:
    """Round scales to the nearest storable ones, never 0; `up`: the nearest of at least the same magnitude.

    float32 [N, K/G] in and out. Rows are independent, and storable scales stay as they are. For float16 scales `up`
    changes nothing: rounding to nearest makes none smaller by more than 1/2048, too little to matter for 8-bit codes.
    """
    largest = _largest(scheme)
    if scheme.scales == "float32":
        return np.where(scales == 0, np.finfo(np.float32).tiny, scales)
    if scheme.scales == "float16":
        stored = scales.clip(-largest, largest).astype(np.float16).astype(np.float32)
        stored[stored == 0] = _SMALLEST_FLOAT16
        return stored
    scales = scales.clip(-largest if scheme.symmetric else 0, largest)
    step = _row_steps(scales, scheme)
    multiples: NDArray[np.float32] = scales / step
    multiples = np.copysign(np.ceil(np.abs(multiples)), multiples) if up else np.rint(multiples)
    zero = multiples == 0
    multiples[zero] = np.copysign(1, scales[zero]) if scheme.symmetric else 1
    multiples *= step
    return multiples


def split_scales(scales: ScaleArray, scheme: Scheme) -> tuple[NDArray[np.integer], NDArray[np.int8]]:
    """Split int8 scales [N, K/G] into multiples, int8 or uint8 [N, K/G], and exponents, int8 [N, 1].

    multiples * 2.0**exponents equals the scales exactly. ValueError: scales that `storable_scales` never gives.
    """
    wide = scales.astype(np.float32)
    step = _row_steps(wide, scheme)
    wanted = wide / step
    with np.errstate(invalid="ignore"):  # what does not fit differs
        multiples = wanted.astype(multiples_type(scheme))
    if not (multiples == wanted).all():
        raise ValueError(f"scales of a row are not {multiples.dtype} multiples of one power of two")
    return multiples, np.log2(step).astype(np.int8)


def multiples_type(scheme: Scheme) -> np.dtype[np.integer]:
    """Integer type of the multiples that `split_scales` returns: int8 if symmetric, else uint8."""
    return np.dtype(np.int8 if scheme.symmetric else np.uint8)


def at_limits(scales: ScaleArray, scheme: Scheme) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of stored scales [N, K/G] that are the smallest that their row can hold, and the largest of all."""
    size = np.abs(scales.astype(np.float32))
    if scheme.scales == "float32":
        return size == np.finfo(np.float32).tiny, size == np.finfo(np.float32).max
    smallest = _SMALLEST_FLOAT16 if scheme.scales == "float16" else _row_steps(size, scheme)
    return size == smallest, size == _largest(scheme)


def _bits(scheme: Scheme) -> int:
    """Bits of a multiple, without its sign."""
    return 7 if scheme.symmetric else 8


def _largest(scheme: Scheme) -> np.float32:
    if scheme.scales == "float16":
        return _LARGEST_FLOAT16
    return np.float32(2**_FLOAT16_BITS - 2 ** (_FLOAT16_BITS - _bits(scheme)))


def _row_steps(scales: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """Power of two of each row, float32 [N, 1]: the smallest for which every multiple fits."""
    bits = _bits(scheme)
    fraction, exponent = np.frexp(np.abs(scales).max(axis=1, keepdims=True))
    exponent = exponent - bits + (fraction > 1 - 2.0**-bits)
    steps: NDArray[np.float32] = np.ldexp(np.float32(1), exponent.clip(_SMALLEST_EXPONENT, _FLOAT16_BITS - bits))
    return steps
