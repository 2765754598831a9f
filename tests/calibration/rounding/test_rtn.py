"""Rounding to nearest: bounds, optimality against naive search, and independence of blocking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.calibration.rounding.scales import LostGroups
from q3edge.quantization.scheme import Scheme

SCHEMES = [
    *(Scheme(bits, group, symmetric) for bits in (2, 4, 8) for group in (16, 64) for symmetric in (True, False)),
    Scheme(8, None, activations="int8_per_token"),
]


def gaussian(rows: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32) * np.float32(0.02)


def squared_error(weights: NDArray[np.float32], scheme: Scheme) -> float:
    return float(np.square(round_to_nearest(weights, scheme).dequantize().astype(np.float64) - weights).sum())


def full_range_error(weights: NDArray[np.float32], scheme: Scheme) -> float:
    """Textbook rounding, group by group: the scale spans min..max (or -max..max), no search."""
    total = 0.0
    for row in weights:
        for group in row.reshape(-1, scheme.group_size or row.size):
            if scheme.symmetric:
                zero, scale = 2 ** (scheme.bits - 1), np.abs(group).max() / (2 ** (scheme.bits - 1) - 1)
            else:
                low, high = min(group.min(), 0), max(group.max(), 0)
                scale = (high - low) / scheme.max_code
                zero = round(-low / scale)
            codes = np.clip(np.round(group / scale) + zero, 0, scheme.max_code)
            total += float(np.square((codes - zero) * scale - group).sum())
    return total


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_never_worse_than_textbook_rounding(scheme: Scheme) -> None:
    weights = gaussian(12, 128)
    limit = 1.001 if scheme.bits < 8 else 1.1  # eight bits use no search, and scales are rounded up
    assert squared_error(weights, scheme) <= limit * full_range_error(weights, scheme)


def test_search_pays_at_four_bits() -> None:
    weights = gaussian(64, 256)
    for symmetric in (True, False):
        scheme = Scheme(4, 32, symmetric)
        assert squared_error(weights, scheme) < 0.93 * full_range_error(weights, scheme)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.bits == 8], ids=Scheme.label)
def test_eight_bit_error_is_within_one_step(scheme: Scheme) -> None:
    weights = gaussian(5, 128)
    quantized = round_to_nearest(weights, scheme)
    step = np.abs(quantized.scales.astype(np.float32)).repeat(128 // quantized.scales.shape[1], axis=1)
    assert (np.abs(quantized.dequantize() - weights) <= 1.01 * step).all()


# Two-bit symmetric weights have a second grid at the other sign of the scale, so they are left to the error bound.
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.bits > 2 or not s.symmetric], ids=Scheme.label)
def test_weights_on_the_grid_are_reproduced(scheme: Scheme) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, scheme.max_code + 1, (6, 128))
    codes[:, ::16], codes[:, 1::16] = 0, scheme.max_code
    zero = scheme.implicit_zero_point if scheme.symmetric else 2
    weights = ((codes - zero) * np.float32(2.0**-9)).astype(np.float32)
    np.testing.assert_array_equal(round_to_nearest(weights, scheme).dequantize(), weights)


@given(
    st.sampled_from(SCHEMES),
    st.integers(1, 70),
    st.sampled_from([64, 128, 192]),
    st.floats(-9, 4),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_any_scale_of_weights_gives_valid_codes(
    scheme: Scheme, rows: int, width: int, exponent: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((rows, width)) * 10.0**exponent * rng.integers(0, 2, (rows, 1))).astype(np.float32)
    quantized = round_to_nearest(weights, scheme)
    assert quantized.codes.max() <= scheme.max_code
    assert np.isfinite(quantized.scales).all()
    assert (quantized.scales != 0).all()
    assert np.isfinite(quantized.dequantize()).all()
    alone = round_to_nearest(weights[rows // 2 : rows // 2 + 1], scheme)
    np.testing.assert_array_equal(alone.codes[0], quantized.codes[rows // 2])
    np.testing.assert_array_equal(alone.scales[0], quantized.scales[rows // 2])


def test_zero_weights_stay_exactly_zero() -> None:
    for scheme in SCHEMES:
        assert not round_to_nearest(np.zeros((3, 64), np.float32), scheme).dequantize().any()


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_groups_whose_scale_cannot_be_stored_are_counted(scheme: Scheme) -> None:
    weights = gaussian(3, 128)
    assert LostGroups.count(weights, round_to_nearest(weights, scheme)).lost == 0
    weights[0] = 0
    weights[1] *= np.float32(1e-12)
    weights[2] *= np.float32(1e12)
    quantized = round_to_nearest(weights, scheme)
    found, groups = LostGroups.count(weights, quantized), quantized.scales.shape[1]
    assert (found.lost, found.groups) == (2 * groups, 3 * groups)
    assert found.squares == pytest.approx(np.square(weights, dtype=np.float64).sum())
    assert np.abs(quantized.dequantize()[1]).max() < 1e-6
