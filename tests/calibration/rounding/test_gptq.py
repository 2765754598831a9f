"""GPTQ against a naive elimination, column by column, and against what must hold for any Hessian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from q3edge.calibration.rounding.gptq import DAMPING, factorize, round_channels
from q3edge.calibration.rounding.grid import Grid, choose_grid, dequantized, round_to_grid
from q3edge.errors import ResourceError
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import correlated_inputs, gaussian_weights, in_float64, output_loss

SCHEMES = [Scheme(bits, group, symmetric) for bits in (2, 4, 8) for group in (16, 64) for symmetric in (True, False)]
WIDTH = 192


def spread(width: int, seed: int = 0) -> torch.Tensor:
    """A channel scale: powers of two from 1/4 to 4."""
    return torch.exp2(torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, width))).float()


def damped(hessian: torch.Tensor) -> NDArray[np.float64]:
    h = hessian.double().numpy().copy()
    rms = np.sqrt(np.diag(h))
    return h + np.diag(DAMPING * rms.mean() * rms)


def naive_elimination(
    weights: torch.Tensor, hessian: torch.Tensor, grid: Grid, scheme: Scheme, taken: torch.Tensor | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Optimal brain quantization in a fixed order: the full inverse is updated after every single column.

    Returns what each weight should become before it is rounded, in steps and within the grid's range, and the steps
    themselves. taken: steps [N, K] to go on from after each column, in the place of the nearest ones.
    """
    rows, width = weights.shape
    left = weights.double().numpy().copy()
    order = sorted(range(width), key=lambda channel: -hessian[channel, channel])
    inverse = np.linalg.inv(damped(hessian))
    wanted, steps = np.empty((rows, width)), np.empty((rows, width))
    for channel in order:
        group = channel // (width // grid.scales.shape[1])
        size = grid.scales[:, group].double().numpy()
        if grid.channel_scale is not None:
            size = size / float(grid.channel_scale[channel])
        zero = grid.zero_points[:, group].double().numpy()
        wanted[:, channel] = np.clip(left[:, channel] * (1 / size), -zero, scheme.max_code - zero)
        steps[:, channel] = np.round(wanted[:, channel]) if taken is None else taken[:, channel].numpy()
        error = (left[:, channel] - steps[:, channel] * size) / inverse[channel, channel]
        left -= np.outer(error, inverse[channel])
        inverse -= np.outer(inverse[:, channel], inverse[channel]) / inverse[channel, channel]
    return wanted, steps


def float32_slack(hessian: torch.Tensor, scheme: Scheme) -> float:
    """Bound, in steps, on the difference between a weight computed in float32 and in float64.

    Triangular systems are solved to a relative error of the condition number times the unit roundoff (Higham 2002,
    theorem 8.5; the scaling of channels does not matter), and no weight is larger than the grid's range.
    """
    h = damped(hessian)
    scaling = 1 / np.sqrt(np.diag(h))
    condition = float(np.linalg.cond(h * scaling * scaling[:, None]))
    return condition * torch.finfo(torch.float32).eps * scheme.max_code


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
def test_equals_a_naive_elimination_column_by_column(scheme: Scheme, scaled: bool) -> None:
    """Codes are equal in float64.

    In float32 a tie may fall to the other side, and then every code after it in its row may differ. So each
    code is compared with what the elimination wants after the codes that were taken before it.
    """
    inputs = correlated_inputs(600, WIDTH, outliers=3)
    hessian, weights = inputs.T @ inputs, gaussian_weights(12, WIDTH)
    channel_scale = spread(WIDTH) if scaled else None
    grid = choose_grid(weights, scheme, hessian.diagonal().float(), channel_scale)
    _, expected = naive_elimination(weights, hessian, grid, scheme)
    exact = round_channels(weights.double(), factorize(hessian), in_float64(grid), scheme)
    np.testing.assert_array_equal(exact.numpy(), expected)

    single = round_channels(weights, factorize(hessian.float()), grid, scheme)
    slack = float32_slack(hessian, scheme)
    assert slack < 0.02
    wanted, _ = naive_elimination(weights, hessian, grid, scheme, single)
    assert np.abs(single.numpy() - wanted).max() <= 0.5 + slack
    loss, expected_loss = (
        output_loss(weights, dequantized(steps, in_float64(grid)), hessian)
        for steps in (single.double(), torch.from_numpy(expected))
    )
    assert loss == pytest.approx(expected_loss, rel=0.05)  # a row after a tie: seen up to 0.4 % of all twelve


@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
@pytest.mark.parametrize("channel_scale", [None, spread(64)], ids=["plain", "scaled"])
def test_an_identity_hessian_is_rounding_to_nearest(scheme: Scheme, channel_scale: torch.Tensor | None) -> None:
    weights = gaussian_weights(9, 64)
    grid = choose_grid(weights, scheme, channel_scale=channel_scale)
    found = round_channels(weights, factorize(torch.eye(64)), grid, scheme)
    torch.testing.assert_close(found, round_to_grid(weights, grid, scheme), rtol=0, atol=0)


@pytest.mark.parametrize("scheme", [Scheme(4, 32, False), Scheme(2, 16, True)], ids=Scheme.label)
def test_the_block_changes_nothing(scheme: Scheme) -> None:
    inputs = correlated_inputs(400, WIDTH, seed=1)
    weights = gaussian_weights(10, WIDTH, seed=1).double()
    factor = factorize(inputs.T @ inputs)
    grid = in_float64(choose_grid(weights.float(), scheme))
    first = round_channels(weights, factor, grid, scheme, block=1)
    for block in (7, 128, WIDTH, 10 * WIDTH):
        torch.testing.assert_close(round_channels(weights, factor, grid, scheme, block=block), first, rtol=0, atol=0)


def test_rows_do_not_influence_each_other() -> None:
    inputs = correlated_inputs(200, 64, seed=2)
    factor, scheme = factorize(inputs.T @ inputs), Scheme(4, 16)
    weights = gaussian_weights(6, 64).double()
    grid = in_float64(choose_grid(weights.float(), scheme))
    together = round_channels(weights, factor, grid, scheme)
    alone = Grid(grid.scales[2:3], grid.zero_points[2:3])
    torch.testing.assert_close(round_channels(weights[2:3], factor, alone, scheme)[0], together[2], rtol=0, atol=0)


def test_the_grid_and_the_weights_are_left_as_they_were() -> None:
    inputs = correlated_inputs(200, WIDTH)
    weights, scheme, channel_scale = gaussian_weights(5, WIDTH), Scheme(4, 32, False), spread(WIDTH)
    hessian = (inputs.T @ inputs).float()
    grid = choose_grid(weights, scheme, channel_scale=channel_scale)
    parts = (weights, hessian, grid.scales, grid.zero_points, channel_scale)
    before = [part.clone() for part in parts]
    round_channels(weights, factorize(hessian), grid, scheme)
    for part, earlier in zip(parts, before):
        torch.testing.assert_close(part, earlier, rtol=0, atol=0)


def test_permuting_whole_groups_permutes_the_result() -> None:
    scheme, width = Scheme(4, 16, False), 128
    inputs, weights = correlated_inputs(300, width, seed=3), gaussian_weights(7, width)
    hessian = inputs.T @ inputs  # float64: the mean of the strengths is summed in the order of the channels
    moved = torch.from_numpy(np.random.default_rng(0).permutation(8)).repeat_interleave(16) * 16
    moved += torch.arange(16).repeat(8)

    def solved(weights: torch.Tensor, hessian: torch.Tensor) -> tuple[torch.Tensor, Grid]:
        factor = factorize(hessian)
        grid = choose_grid(weights, scheme, factor.importance.float())
        return round_channels(weights.double(), factor, in_float64(grid), scheme), grid

    steps, grid = solved(weights, hessian)
    moved_steps, moved_grid = solved(weights[:, moved].contiguous(), hessian[moved][:, moved])
    torch.testing.assert_close(moved_grid.scales, grid.scales[:, moved[::16] // 16], rtol=0, atol=0)
    torch.testing.assert_close(moved_steps, steps[:, moved], rtol=0, atol=0)


def test_the_factor_is_that_of_the_damped_inverse_in_order_of_use() -> None:
    inputs = correlated_inputs(300, 48, seed=4)
    hessian = inputs.T @ inputs
    factor = factorize(hessian)
    diagonal = hessian.diagonal()
    assert (diagonal[factor.order].diff() <= 0).all()
    rms = diagonal.sqrt()
    damped = hessian + torch.diag(DAMPING * rms.mean() * rms)
    torch.testing.assert_close(factor.importance, damped.diagonal())
    ordered = damped[factor.order][:, factor.order]
    torch.testing.assert_close(factor.upper.T @ factor.upper, torch.linalg.inv(ordered))
    assert (factor.upper.tril(-1) == 0).all()
    assert (factor.damping, factor.retries, factor.dead_channels) == (DAMPING, 0, 0)


@pytest.mark.parametrize("rank", [1, 5])
def test_fewer_tokens_than_channels_are_enough(rank: int) -> None:
    inputs = correlated_inputs(rank, 64, outliers=2).float()
    hessian, weights, scheme = inputs.T @ inputs, gaussian_weights(8, 64), Scheme(4, 32)
    assert torch.linalg.matrix_rank(hessian) < 64
    factor = factorize(hessian)
    grid = choose_grid(weights, scheme, factor.importance)
    steps = round_channels(weights, factor, grid, scheme)
    nearest = round_to_grid(weights, grid, scheme)
    assert torch.isfinite(steps).all()
    loss = output_loss(weights, dequantized(steps, grid), hessian)
    assert loss <= output_loss(weights, dequantized(nearest, grid), hessian)


@pytest.mark.parametrize(("excess", "damping"), [(1.005, 0.01), (1.05, 0.1), (1.5, 1.0)])
def test_damping_is_raised_as_far_as_needed_and_counted(excess: float, damping: float) -> None:
    hessian = torch.eye(32)
    hessian[3, 4] = hessian[4, 3] = excess  # more than the diagonal
    factor = factorize(hessian)
    assert factor.damping == pytest.approx(damping)
    assert factor.retries == round(np.log10(damping / DAMPING))
    assert torch.isfinite(factor.upper).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e3])
def test_a_hessian_that_cannot_be_factored_is_refused(value: float) -> None:
    hessian = torch.eye(32)
    hessian[3, 4] = hessian[4, 3] = value
    with pytest.raises(ResourceError, match="cannot be factored"):
        factorize(hessian)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diagonal_that_is_not_finite_is_refused(value: float) -> None:
    hessian = torch.eye(32)
    hessian[3, 3] = value  # what activations of 1e20 leave in float32
    with pytest.raises(ResourceError, match="cannot be factored"):
        factorize(hessian)


def test_dead_channels_are_counted_and_rounded_alone() -> None:
    inputs = correlated_inputs(300, 64, seed=5)
    dead = [0, 17, 63]
    inputs[:, dead] = 0
    hessian, scheme = (inputs.T @ inputs).float(), Scheme(4, 16)
    factor = factorize(hessian)
    assert factor.dead_channels == 3
    assert factor.retries == 0
    assert sorted(factor.order[-3:].tolist()) == dead
    weights = gaussian_weights(8, 64)
    grid = choose_grid(weights, scheme, factor.importance)
    steps = round_channels(weights, factor, grid, scheme)
    torch.testing.assert_close(steps[:, dead], round_to_grid(weights, grid, scheme)[:, dead], rtol=0, atol=0)
    others = [channel for channel in range(64) if channel not in dead]
    changed = weights.clone()
    changed[:, dead] *= -0.5
    torch.testing.assert_close(round_channels(changed, factor, grid, scheme)[:, others], steps[:, others])


def test_a_hessian_of_nothing_but_zeros_is_rounding_to_nearest() -> None:
    weights, scheme = gaussian_weights(4, 32), Scheme(4, 16)
    factor = factorize(torch.zeros(32, 32))
    assert factor.dead_channels == 32
    grid = choose_grid(weights, scheme, factor.importance)
    torch.testing.assert_close(round_channels(weights, factor, grid, scheme), round_to_grid(weights, grid, scheme))


@pytest.mark.parametrize("dead", [0, 3])
def test_the_size_of_the_activations_does_not_matter(dead: int) -> None:
    inputs = correlated_inputs(300, 64, seed=6)
    inputs[:, 16 : 16 + dead] = 0
    hessian, weights, scheme = inputs.T @ inputs, gaussian_weights(8, 64), Scheme(4, 16, False)
    found = []
    for size in (1.0, 2.0**-20):
        factor = factorize(hessian * size)
        grid = choose_grid(weights, scheme, factor.importance.float())
        found.append(round_channels(weights.double(), factor, in_float64(grid), scheme))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@given(
    st.sampled_from((2, 4, 8)),
    st.sampled_from((16, 32, 64)),
    st.booleans(),
    st.integers(0, 8),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_never_worse_than_rounding_to_nearest_on_the_same_grid(
    bits: int, group: int, symmetric: bool, outliers: int, seed: int
) -> None:
    scheme = Scheme(bits, group, symmetric)
    inputs, weights = correlated_inputs(256, 64, seed, outliers=outliers), gaussian_weights(32, 64, seed)
    hessian = (inputs.T @ inputs).float()
    factor = factorize(hessian)
    grid = choose_grid(weights, scheme, factor.importance)
    found, nearest = (
        output_loss(weights, dequantized(steps, grid), hessian)
        for steps in (round_channels(weights, factor, grid, scheme), round_to_grid(weights, grid, scheme))
    )
    assert found <= 1.001 * nearest
