"""What a scale can be: stored exactly, close to what was wanted, in 8 bits a group and 8 a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from q3edge.quantization.scales import at_limits, multiples_type, split_scales, storable_scales
from q3edge.quantization.scheme import Scheme

SYMMETRIC, ASYMMETRIC = Scheme(4, 32), Scheme(4, 32, symmetric=False)
PER_CHANNEL = Scheme(8, None, activations="int8_per_token")
BLOCK_WISE = st.sampled_from([SYMMETRIC, ASYMMETRIC])
FLOAT16 = [PER_CHANNEL, Scheme(4, 32, scales="float16"), Scheme(2, 16, symmetric=False, scales="float16")]


def some_scales(seed: int, exponent: float, scheme: Scheme) -> NDArray[np.float32]:
    """[N, K/G], rows of different sizes, of either sign where the scheme is symmetric."""
    rng = np.random.default_rng(seed)
    rows, groups = rng.integers(1, 9, 2)
    scales = rng.standard_normal((rows, groups)) * 10.0 ** (exponent + rng.uniform(-2, 2, (rows, 1)))
    return (scales if scheme.symmetric else np.abs(scales)).astype(np.float32)


@given(BLOCK_WISE, st.floats(-9, 7), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_stored_scales_are_multiples_of_a_power_of_two_by_row(
    scheme: Scheme, exponent: float, up: bool, seed: int
) -> None:
    stored = storable_scales(some_scales(seed, exponent, scheme), scheme, up=up)
    multiples, exponents = split_scales(stored.astype(np.float16), scheme)
    assert (stored != 0).all()
    assert multiples.dtype == multiples_type(scheme)
    assert exponents.shape == (len(stored), 1)
    np.testing.assert_array_equal(multiples * np.exp2(exponents.astype(np.float64)), stored)


@given(BLOCK_WISE, st.floats(-9, 7), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_what_can_be_stored_stays_as_it_is(scheme: Scheme, exponent: float, up: bool, seed: int) -> None:
    stored = storable_scales(some_scales(seed, exponent, scheme), scheme)
    np.testing.assert_array_equal(storable_scales(stored, scheme, up=up), stored)
    folded = stored / np.float32(4)
    if np.abs(folded).max(axis=1).min() > 2.0**-14:  # far enough from the smallest exponent
        np.testing.assert_array_equal(storable_scales(folded, scheme), folded)


@given(BLOCK_WISE, st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_scales_move_by_half_a_step_of_their_row(scheme: Scheme, exponent: float, seed: int) -> None:
    wanted = some_scales(seed, exponent, scheme)
    nearest, above = storable_scales(wanted, scheme), storable_scales(wanted, scheme, up=True)
    step = np.abs(wanted).max(axis=1, keepdims=True) / (63.5 if scheme.symmetric else 127.5)  # at the most
    forced = (np.abs(wanted) < step) * step  # none becomes 0
    assert (np.abs(nearest - wanted) <= np.maximum(step / 2, forced)).all()
    assert (np.abs(above) >= np.abs(wanted)).all()
    assert (np.abs(above - wanted) <= step).all()


def test_a_row_keeps_to_itself() -> None:
    wanted = some_scales(1, -2, SYMMETRIC)
    together = storable_scales(wanted, SYMMETRIC)
    alone = np.concatenate([storable_scales(row[None], SYMMETRIC) for row in wanted])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=Scheme.label)
def test_bfloat16_and_float16_hold_every_stored_scale(scheme: Scheme) -> None:
    stored = torch.from_numpy(storable_scales(some_scales(2, -2, scheme), scheme))
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(stored.to(dtype).float(), stored)


def test_an_asymmetric_scale_has_no_sign() -> None:
    stored = storable_scales(np.array([[1.0, -0.5]], np.float32), ASYMMETRIC)
    assert stored.tolist() == [[1.0, 2.0**-7]]


@pytest.mark.parametrize("scales", [[[1.0, 1 / 3]], [[1.0, 0.001]]])
@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=Scheme.label)
def test_other_scales_cannot_be_split(scales: list[list[float]], scheme: Scheme) -> None:
    with pytest.raises(ValueError, match="multiples of one power of two"):
        split_scales(np.array(scales, np.float16), scheme)


def test_a_negative_scale_cannot_be_split_where_there_is_no_sign() -> None:
    with pytest.raises(ValueError, match="uint8 multiples"):
        split_scales(np.array([[1.0, -0.5]], np.float16), ASYMMETRIC)


@given(st.sampled_from(FLOAT16), st.floats(-9, 7), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_float16_scales_are_the_nearest_and_never_zero(scheme: Scheme, exponent: float, up: bool, seed: int) -> None:
    wanted = some_scales(seed, exponent, SYMMETRIC)
    stored = storable_scales(wanted, scheme, up=up)
    nearest = np.clip(wanted, -65504, 65504).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(stored, np.where(nearest == 0, np.float32(2.0**-24), nearest))
    np.testing.assert_array_equal(storable_scales(stored, scheme, up=up), stored)


@pytest.mark.parametrize("scheme", FLOAT16, ids=Scheme.label)
def test_limits_of_float16_scales(scheme: Scheme) -> None:
    wanted = np.array([[1 / 3], [-1e-12], [1e12]], np.float32)
    stored = storable_scales(wanted, scheme)
    np.testing.assert_array_equal(stored[:, 0], np.array([np.float16(1 / 3), 2.0**-24, 65504], np.float32))
    smallest, largest = at_limits(stored.astype(np.float16), scheme)
    assert smallest[:, 0].tolist() == [False, True, False]
    assert largest[:, 0].tolist() == [False, False, True]


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=Scheme.label)
def test_limits_are_the_smallest_of_the_row_and_the_largest_of_all(scheme: Scheme) -> None:
    stored = storable_scales(np.array([[1.0, 1e-6, 0.5], [1e9, 1.0, 1e-9]], np.float32), scheme)
    smallest, largest = at_limits(stored.astype(np.float16), scheme)
    assert smallest.tolist() == [[False, True, False], [False, True, True]]
    assert largest.tolist() == [[False, False, False], [True, False, False]]
