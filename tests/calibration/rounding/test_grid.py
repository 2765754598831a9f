"""The grid of every group: the search against all its candidates, importance, and channel scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.calibration.rounding.grid import Grid, as_tensor, choose_grid, dequantized, round_to_grid
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.quantization.scales import split_scales
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import gaussian_weights

SCHEMES = [
    *(Scheme(bits, group, symmetric) for bits in (2, 4, 8) for group in (16, 64) for symmetric in (True, False)),
    Scheme(8, None, activations="int8_per_token"),
]
SEARCHED = [scheme for scheme in SCHEMES if scheme.bits < 8]


def uneven_importance(width: int, seed: int = 0) -> torch.Tensor:
    """Importance float32 [width] over four orders of magnitude."""
    return torch.from_numpy(10 ** np.random.default_rng(seed).uniform(-2, 2, width)).float()


def powers_of_two(width: int, seed: int = 0) -> torch.Tensor:
    return torch.exp2(torch.from_numpy(np.random.default_rng(seed).integers(-3, 4, width))).float()


def weighted_loss(weights: torch.Tensor, grid: Grid, scheme: Scheme, importance: torch.Tensor) -> torch.Tensor:
    """float64 [N, K/G]."""
    values = dequantized(round_to_grid(weights, grid, scheme), grid)
    errors = (values.double() - weights.double()).square() * importance.double()
    return errors.view(len(weights), grid.scales.shape[1], -1).sum(-1)


def best_candidate(group: np.ndarray, share: np.ndarray, scheme: Scheme) -> tuple[float, float]:
    """The least weighted loss of all candidate ranges, each with its best scale, for one group, in float64.

    With it how fast that loss grows with the square of the scale's error.
    """
    if scheme.symmetric:
        extreme = group.max() if group.max() > -group.min() else group.min()
        zero, full = scheme.implicit_zero_point, -extreme / scheme.implicit_zero_point
    else:
        low, high = min(group.min(), 0), max(group.max(), 0)
        full = (high - low) / scheme.max_code
        zero = round(-low / full)
    candidates = []
    for fraction in (1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7):
        steps = np.clip(np.round(group / (full * fraction)), -zero, scheme.max_code - zero)
        if steps.any():
            scale = (share * group * steps).sum() / (share * steps * steps).sum()
            loss = float((share * np.square(group - scale * steps)).sum())
            candidates.append((loss, float((share * steps * steps).sum())))
    return min(candidates)


@pytest.mark.parametrize("scheme", SEARCHED, ids=Scheme.label)
def test_no_candidate_range_does_better(scheme: Scheme) -> None:
    weights, importance = gaussian_weights(6, 128), uneven_importance(128)
    grid = choose_grid(weights, scheme, importance)
    found = weighted_loss(weights, grid, scheme, importance)
    half_steps = np.ldexp(0.5, split_scales(grid.scales.numpy().astype(np.float16), scheme)[1])
    groups = weights.double().numpy().reshape(6, scheme.groups(128), -1)
    shares = importance.double().numpy().reshape(scheme.groups(128), -1)
    for row, column in np.ndindex(*groups.shape[:2]):
        group, share = groups[row, column], shares[column]
        least, growth = best_candidate(group, share, scheme)
        assert float(found[row, column]) <= least * (1 + 1e-5) + growth * half_steps[row, 0] ** 2


@pytest.mark.parametrize("scheme", SEARCHED, ids=Scheme.label)
def test_importance_pays_under_the_loss_it_describes(scheme: Scheme) -> None:
    weights, importance = gaussian_weights(48, 128, seed=1), uneven_importance(128)
    weighted, plain = (
        weighted_loss(weights, choose_grid(weights, scheme, given), scheme, importance).sum()
        for given in (importance, None)
    )
    assert weighted < 0.95 * plain


@given(st.sampled_from(SEARCHED), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_weighted_search_is_never_worse_than_an_unweighted_one(scheme: Scheme, scaled: bool, seed: int) -> None:
    weights, importance = gaussian_weights(32, 64, seed), uneven_importance(64, seed)
    channel_scale = powers_of_two(64, seed) if scaled else None
    weighted, plain = (
        weighted_loss(weights, choose_grid(weights, scheme, given, channel_scale), scheme, importance).sum()
        for given in (importance, None if channel_scale is None else channel_scale.square())
    )
    assert weighted <= plain * (1 + 1e-6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_without_importance_it_is_rounding_to_nearest(scheme: Scheme) -> None:
    weights = gaussian_weights(7, 128)
    nearest = round_to_nearest(weights.numpy(), scheme)
    for importance in (None, torch.ones(128), torch.full((128,), 2.0**-9)):
        grid = choose_grid(weights, scheme, importance)
        tensor = as_tensor(round_to_grid(weights, grid, scheme), grid, scheme)
        np.testing.assert_array_equal(tensor.codes, nearest.codes)
        np.testing.assert_array_equal(tensor.scales, nearest.scales)
        np.testing.assert_array_equal(tensor.dequantize(), nearest.dequantize())


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_eight_bits_ignore_importance_and_keep_the_full_range(scheme: Scheme) -> None:
    weights = gaussian_weights(4, 64)
    uneven = choose_grid(weights, scheme, uneven_importance(64))
    plain = choose_grid(weights, scheme)
    assert torch.equal(uneven.scales, plain.scales) == (scheme.bits == 8)
    torch.testing.assert_close(uneven.zero_points, plain.zero_points, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_a_channel_scale_of_powers_of_two_is_rounding_scaled_weights(scheme: Scheme) -> None:
    weights, importance, channel_scale = gaussian_weights(6, 128), uneven_importance(128), powers_of_two(128)
    grid = choose_grid(weights, scheme, importance, channel_scale)
    found = dequantized(round_to_grid(weights, grid, scheme), grid)
    product = weights * channel_scale
    plain = choose_grid(product, scheme, importance / channel_scale.square())
    expected = dequantized(round_to_grid(product, plain, scheme), plain) / channel_scale
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_one_factor_for_all_channels_changes_nothing(scheme: Scheme) -> None:
    weights = gaussian_weights(6, 64)
    plain = choose_grid(weights, scheme)
    scaled = choose_grid(weights, scheme, channel_scale=torch.full((64,), 4.0))
    found, expected = (dequantized(round_to_grid(weights, grid, scheme), grid) for grid in (scaled, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(scaled.scales, 4 * plain.scales, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
@pytest.mark.parametrize("kind", ["none", "powers of two", "any"])
def test_what_is_stored_is_what_solvers_saw_times_the_channel_scale(scheme: Scheme, kind: str) -> None:
    weights = gaussian_weights(6, 128)
    any_scale = uneven_importance(128).sqrt()
    channel_scale = {"none": None, "powers of two": powers_of_two(128), "any": any_scale}[kind]
    grid = choose_grid(weights, scheme, channel_scale=channel_scale)
    steps = round_to_grid(weights, grid, scheme)
    stored = torch.from_numpy(as_tensor(steps, grid, scheme).dequantize())
    seen = dequantized(steps, grid)
    torch.testing.assert_close(stored if channel_scale is None else stored / channel_scale, seen, rtol=0, atol=0)
    if kind != "any":
        torch.testing.assert_close(stored, seen if channel_scale is None else seen * channel_scale, rtol=0, atol=0)


@pytest.mark.parametrize("channel_scale", [None, powers_of_two(128)], ids=["plain", "scaled"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_channels_in_any_order_are_rounded_on_their_own_groups(
    scheme: Scheme, channel_scale: torch.Tensor | None
) -> None:
    weights = gaussian_weights(5, 128)
    grid = choose_grid(weights, scheme, channel_scale=channel_scale)
    order = torch.from_numpy(np.random.default_rng(0).permutation(128))
    channels = grid.by_channel(order, scheme)
    expected = round_to_grid(weights, grid, scheme)
    for position, channel in enumerate(order.tolist()):
        found = torch.empty(5)
        channels.round_channel(position, weights[:, channel], out=found)
        torch.testing.assert_close(found, expected[:, channel], rtol=0, atol=0)


def test_a_channel_scale_that_underflows_the_importance_still_gives_a_grid() -> None:
    weights, scheme = gaussian_weights(3, 64), Scheme(4, 32)
    grid = choose_grid(weights, scheme, torch.full((64,), 1e-30), torch.full((64,), 64.0))
    assert torch.isfinite(dequantized(round_to_grid(weights, grid, scheme), grid)).all()
