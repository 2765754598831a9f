"""Sweeps: coordinate descent against a naive one, refitted scales against least squares, losses that never rise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from q3edge.calibration.rounding.gptq import factorize, round_channels
from q3edge.calibration.rounding.grid import Grid, choose_grid, dequantized, round_to_grid
from q3edge.calibration.rounding.refine import descend, refit_scales
from q3edge.quantization.scales import at_limits, split_scales
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import correlated_inputs, gaussian_weights, in_float64, output_loss

SCHEMES = [Scheme(bits, group, symmetric) for bits in (2, 4, 8) for group in (16, 64) for symmetric in (True, False)]
WIDTH = 192
RIDGE = 1e-4


def uneven(width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.3, 3, width)).float()


def naive_sweep(
    weights: np.ndarray, h: np.ndarray, steps: np.ndarray, sizes: np.ndarray, zeros: np.ndarray, scheme: Scheme
) -> np.ndarray:
    """One row after another, one code after another, each to its best value given all others."""
    found = steps.copy()
    for row in range(len(weights)):
        for channel in range(len(h)):
            left = weights[row] - found[row] * sizes[row]
            left[channel] = weights[row, channel]
            wanted = h[channel] @ left / h[channel, channel]  # the value there that cancels the slope
            code = np.round(wanted / sizes[row, channel])
            found[row, channel] = np.clip(code, -zeros[row, channel], scheme.max_code - zeros[row, channel])
    return found


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_descent_equals_a_naive_one(scheme: Scheme, scaled: bool) -> None:
    inputs, weights = correlated_inputs(500, WIDTH, outliers=2), gaussian_weights(4, WIDTH)
    hessian, channel_scale = inputs.T @ inputs, uneven(WIDTH) if scaled else None
    grid = in_float64(choose_grid(weights, scheme, channel_scale=channel_scale))
    steps = round_to_grid(weights.double(), grid, scheme)
    group = np.arange(WIDTH) // (WIDTH // scheme.groups(WIDTH))
    sizes = grid.scales.numpy()[:, group] / (1 if channel_scale is None else channel_scale.double().numpy())
    zeros = grid.zero_points.numpy()[:, group]
    found = descend(weights.double(), hessian, steps, grid, scheme)
    expected = naive_sweep(weights.double().numpy(), hessian.numpy(), steps.numpy(), sizes, zeros, scheme)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert (found != steps).any()


@given(st.sampled_from(SCHEMES), st.booleans(), st.sampled_from([5, 40, 300]), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_descent_never_raises_the_loss(scheme: Scheme, scaled: bool, tokens: int, wild: bool, seed: int) -> None:
    width = 64
    inputs, weights = correlated_inputs(tokens, width, seed, outliers=seed % 3), gaussian_weights(5, width, seed)
    inputs[:, seed % width] = 0
    hessian = (inputs.T @ inputs).float()
    grid = choose_grid(weights, scheme, channel_scale=uneven(width, seed) if scaled else None)
    # From anywhere: also from codes that have nothing to do with the weights.
    start = weights if not wild else gaussian_weights(5, width, seed + 1)
    steps = round_to_grid(start, grid, scheme)
    found = descend(weights, hessian, steps, grid, scheme)
    zeros = grid.zero_points.repeat_interleave(width // scheme.groups(width), dim=1)
    assert ((found + zeros >= 0) & (found + zeros <= scheme.max_code)).all()
    power = output_loss(weights, torch.zeros_like(weights), hessian)
    before, after = (output_loss(weights, dequantized(codes, grid), hessian) for codes in (steps, found))
    assert after <= before * (1 + 1e-5) + 1e-9 * power


def test_descent_settles() -> None:
    inputs, weights, scheme = correlated_inputs(300, 64), gaussian_weights(4, 64).double(), Scheme(4, 32, False)
    hessian, grid = inputs.T @ inputs, in_float64(choose_grid(weights.float(), scheme))
    steps = round_to_grid(weights, grid, scheme)
    for _ in range(60):
        before, steps = steps, descend(weights, hessian, steps, grid, scheme)
    torch.testing.assert_close(steps, before, rtol=0, atol=0)


def test_an_unused_channel_keeps_its_code() -> None:
    inputs, weights, scheme = correlated_inputs(300, 64), gaussian_weights(4, 64), Scheme(4, 32, False)
    inputs[:, [0, 9, 63]] = 0
    grid = choose_grid(weights, scheme)
    steps = round_to_grid(weights, grid, scheme)
    found = descend(weights, (inputs.T @ inputs).float(), steps, grid, scheme)
    torch.testing.assert_close(found[:, [0, 9, 63]], steps[:, [0, 9, 63]], rtol=0, atol=0)


def least_squares_scales(weights: torch.Tensor, hessian: torch.Tensor, steps: torch.Tensor, grid: Grid) -> np.ndarray:
    """Row by row, the scales that fit w in the norm of H and stay close to what they were."""
    rows, width = weights.shape
    groups = grid.scales.shape[1]
    root = np.linalg.cholesky(hessian.double().numpy()).T
    channel_scale = np.ones(width) if grid.channel_scale is None else grid.channel_scale.double().numpy()
    found = np.empty((rows, groups))
    for row in range(rows):
        design = np.zeros((width, groups))
        for channel in range(width):
            design[channel, channel // (width // groups)] = float(steps[row, channel]) / channel_scale[channel]
        design = root @ design
        pull = np.sqrt(RIDGE * np.square(design).sum() / groups) * np.eye(groups)
        old = grid.scales[row].double().numpy()
        target = np.concatenate([root @ weights[row].double().numpy(), pull @ old])
        found[row] = np.linalg.lstsq(np.concatenate([design, pull]), target, rcond=None)[0]
    return found


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_refitted_scales_equal_least_squares(scheme: Scheme, scaled: bool) -> None:
    inputs, weights = correlated_inputs(500, WIDTH, seed=1), gaussian_weights(5, WIDTH, seed=1).double()
    hessian = inputs.T @ inputs
    grid = in_float64(choose_grid(weights.float(), scheme, channel_scale=uneven(WIDTH) if scaled else None))
    steps = round_channels(weights, factorize(hessian), grid, scheme)
    found = refit_scales(weights, hessian, steps, grid, scheme)
    expected = least_squares_scales(weights, hessian, steps, grid)
    half_step = np.ldexp(0.5, split_scales(found.scales.numpy().astype(np.float16), scheme)[1])
    assert (np.abs(found.scales.numpy() - expected) <= half_step + 1e-9).all()
    torch.testing.assert_close(found.zero_points, grid.zero_points, rtol=0, atol=0)
    assert found.channel_scale is grid.channel_scale


@given(st.sampled_from(SCHEMES), st.booleans(), st.sampled_from([3, 40, 300]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_refitted_scales_raise_the_loss_by_no_more_than_storing_them_does(
    scheme: Scheme, scaled: bool, tokens: int, seed: int
) -> None:
    width, rows = 64, 5
    inputs, weights = correlated_inputs(tokens, width, seed, outliers=seed % 3), gaussian_weights(rows, width, seed)
    hessian = (inputs.T @ inputs).float()
    grid = choose_grid(weights, scheme, channel_scale=uneven(width, seed) if scaled else None)
    steps = round_to_grid(weights, grid, scheme)
    found = refit_scales(weights, hessian, steps, grid, scheme)
    assume(not at_limits(found.scales.numpy().astype(np.float16), scheme)[0].any())  # below it the move may be larger
    before, after = (output_loss(weights, dequantized(steps, each), hessian) for each in (grid, found))
    # Each scale moves by half a step of its row at most: by the triangle inequality the root of the loss grows by no
    # more than what these moves give one by one.
    half_steps = np.ldexp(0.5, split_scales(found.scales.numpy().astype(np.float16), scheme)[1])[:, 0]
    groups = scheme.groups(width)
    extra = 0.0
    for row in range(rows):
        values = dequantized(steps, found)[row].double().view(groups, -1)
        for group in range(groups):
            alone = torch.zeros(groups, width // groups, dtype=torch.float64)
            alone[group] = values[group]
            moved = half_steps[row] / abs(float(found.scales[row, group]))
            extra += moved * output_loss(alone.view(1, -1), torch.zeros(1, width), hessian) ** 0.5
    power = output_loss(weights, torch.zeros_like(weights), hessian)
    assert after**0.5 <= before**0.5 + extra + 1e-4 * power**0.5


def test_a_group_that_no_token_uses_keeps_its_scale() -> None:
    inputs, weights, scheme = correlated_inputs(300, 64), gaussian_weights(4, 64), Scheme(4, 16, False)
    inputs[:, 16:32] = 0
    grid = choose_grid(weights, scheme)
    steps = round_to_grid(weights, grid, scheme)
    found = refit_scales(weights, (inputs.T @ inputs).float(), steps, grid, scheme)
    torch.testing.assert_close(found.scales[:, 1], grid.scales[:, 1], rtol=2**-7, atol=0)
    assert (found.scales[:, [0, 2, 3]] != grid.scales[:, [0, 2, 3]]).any()


@pytest.mark.parametrize("what", ["weights", "hessian"])
def test_nothing_to_fit_gives_finite_scales(what: str) -> None:
    weights, hessian, scheme = gaussian_weights(3, 64), torch.eye(64), Scheme(4, 32)
    if what == "weights":
        weights[1] = 0
    else:
        hessian[:] = 0
    grid = choose_grid(weights, scheme)
    steps = round_to_grid(weights, grid, scheme)
    assert torch.isfinite(refit_scales(weights, hessian, steps, grid, scheme).scales).all()
