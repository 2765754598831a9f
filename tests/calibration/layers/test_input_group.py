"""One input group: its choices are made on held-out tokens, its reports are true, its bits do not depend on threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from q3edge.calibration.layers import input_group
from q3edge.calibration.layers.input_group import EXPONENTS, SWEEPS, Solution, solve_input_group, token_rounding_errors
from q3edge.calibration.rounding.gptq import DAMPING, factorize, round_channels
from q3edge.calibration.rounding.grid import choose_grid, dequantized
from q3edge.calibration.rounding.moments import Moments
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import correlated_inputs, gaussian_weights, output_loss

WIDTH = 64
SCHEME = Scheme(4, 32, False)
A8 = Scheme(8, None, activations="int8_per_token")


def moments_of(inputs: torch.Tensor) -> Moments:
    """Moments of which a third of the tokens is held out."""
    sums, held_out = Moments.empty(inputs.shape[1], keeps_samples=True), len(inputs) // 3
    sums.add(inputs[held_out:].float(), held_out=False)
    sums.add(inputs[:held_out].float(), held_out=True)
    return sums


def matrices(*rows: int) -> dict[str, torch.Tensor]:
    return {name: gaussian_weights(n, WIDTH, seed) for seed, (name, n) in enumerate(zip("abc", rows))}


def solved(weights: dict[str, torch.Tensor], sums: Moments, scheme: Scheme = SCHEME) -> Solution:
    return solve_input_group(weights, dict.fromkeys(weights, scheme), sums, lambda channel_scale: channel_scale)


def kept(solution: Solution, name: str) -> torch.Tensor:
    """Weights that the matrix stands for once its input is divided by the channel scale."""
    return torch.from_numpy(solution.tensors[name].dequantize()) / solution.channel_scale


@pytest.mark.parametrize("scheme", [Scheme(2, 16, False), Scheme(4, 32), SCHEME, Scheme(8, 64)], ids=Scheme.label)
@pytest.mark.parametrize("outliers", [0, 4])
def test_never_worse_on_held_out_tokens_than_without_any_choice(scheme: Scheme, outliers: int) -> None:
    sums = moments_of(correlated_inputs(900, WIDTH, outliers=outliers))
    weights = matrices(40, 24)
    solution = solved(weights, sums, scheme)
    factor = factorize(sums.hessian)
    plain_loss = loss = 0.0
    for name, matrix in weights.items():
        grid = choose_grid(matrix, scheme, factor.importance)
        steps = round_channels(matrix, factor, grid, scheme)
        plain_loss += output_loss(matrix, dequantized(steps, grid), sums.held_out)
        loss += output_loss(matrix, kept(solution, name), sums.held_out)
    assert loss <= plain_loss * (1 + 1e-5)


def test_outlier_channels_are_scaled_and_it_pays() -> None:
    sums, weights = moments_of(correlated_inputs(900, WIDTH, outliers=4)), matrices(64)
    solution = solved(weights, sums)
    assert solution.reports["a"].scaling_exponent > 0
    assert solution.channel_scale[:4].min() > solution.channel_scale[4:].max()
    torch.testing.assert_close(solution.channel_scale.log().mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    assert solution.reports["a"].loss < 0.5 * solution.reports["a"].rounding_loss


def test_channels_that_cost_all_others_their_precision_are_scaled_where_inputs_are_rounded() -> None:
    """Multiplied as the kernel does: rounded inputs, rounded weights, on tokens that nothing was chosen on."""
    inputs = correlated_inputs(4000, WIDTH, outliers=4)
    sums, weights = moments_of(inputs[:3000]), matrices(64)
    unseen, matrix = inputs[3000:].float(), weights["a"]

    def error(solution: Solution) -> float:
        scaled = unseen / solution.channel_scale
        values = torch.from_numpy(solution.tensors["a"].dequantize())
        rounded = scaled + token_rounding_errors(scaled)
        return float((rounded @ values.T - unseen @ matrix.T).square().sum())

    found = solved(weights, sums, A8)
    sums.sampled = [torch.zeros(1, WIDTH)]  # as if inputs lost nothing
    by_weights_alone = solved(weights, sums, A8)
    assert found.reports["a"].scaling_exponent > by_weights_alone.reports["a"].scaling_exponent
    assert error(found) < 0.5 * error(by_weights_alone)


def test_an_input_that_rounds_exactly_counts_for_nothing() -> None:
    tokens = torch.tensor([[127.0, 1.0, -5.0], [0.0, 0.0, 0.0], [-254.0, 2.0, 3.0]])
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # 1.5 steps of 2 round to the even 2
    assert torch.equal(token_rounding_errors(tokens), expected)


@pytest.mark.parametrize("name", ["a", "b"])
def test_reports_say_what_happened(name: str) -> None:
    inputs = correlated_inputs(900, WIDTH, outliers=2)
    inputs[:, 9] = 0
    sums, weights = moments_of(inputs), matrices(40, 24)
    solution = solved(weights, sums)
    report, matrix = solution.reports[name], weights[name]
    power = output_loss(matrix, torch.zeros_like(matrix), sums.held_out)
    nearest = torch.from_numpy(round_to_nearest(matrix.numpy(), SCHEME).dequantize())
    assert report.loss == pytest.approx(output_loss(matrix, kept(solution, name), sums.held_out) / power, rel=1e-3)
    assert report.rounding_loss == pytest.approx(output_loss(matrix, nearest, sums.held_out) / power, rel=1e-3)
    assert report.scheme == SCHEME
    assert report.scaling_exponent in EXPONENTS
    assert report.sweeps is not None
    assert 0 <= report.sweeps <= SWEEPS
    assert (report.damping, report.damping_retries, report.dead_channels) == (DAMPING, 0, 1)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_the_channel_scale_is_a_power_of_the_rms_that_can_be_folded(
    exponent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_group, "EXPONENTS", (exponent,))
    sums, weights = moments_of(correlated_inputs(900, WIDTH, outliers=4)), matrices(16)
    asked = []

    def allowed(channel_scale: torch.Tensor) -> torch.Tensor:
        asked.append(channel_scale)
        return torch.exp2(channel_scale.log2().round())

    solution = solve_input_group(weights, {"a": SCHEME}, sums, allowed)
    strength = sums.hessian.diagonal().double().sqrt()
    expected = strength**exponent / (strength**exponent).log().mean().exp()
    torch.testing.assert_close(asked[0].double(), expected, rtol=0.02, atol=0)  # the damping is part of it
    torch.testing.assert_close(solution.channel_scale, torch.exp2(asked[0].log2().round()), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [1, 255, 257, 300])
def test_any_number_of_rows_is_solved_completely(rows: int) -> None:
    sums, weights = moments_of(correlated_inputs(400, WIDTH)), matrices(rows)
    tensor = solved(weights, sums).tensors["a"]
    assert tensor.shape == (rows, WIDTH)
    error = tensor.dequantize() - weights["a"].numpy()
    assert np.abs(error).max() < 0.1
    assert (np.square(error).sum(axis=1) < 0.2 * np.square(weights["a"].numpy()).sum(axis=1)).all()


def test_the_number_of_threads_changes_no_bit() -> None:
    weights = matrices(600, 130)
    inputs = correlated_inputs(700, WIDTH, outliers=2)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(solved(weights, moments_of(inputs)))
    first, second = found
    assert torch.equal(first.channel_scale, second.channel_scale)
    assert first.reports == second.reports
    for name in weights:
        np.testing.assert_array_equal(first.tensors[name].codes, second.tensors[name].codes)
        np.testing.assert_array_equal(first.tensors[name].scales, second.tensors[name].scales)
        np.testing.assert_array_equal(first.tensors[name].zero_points, second.tensors[name].zero_points)


def test_matrices_of_one_group_may_have_different_schemes() -> None:
    sums, weights = moments_of(correlated_inputs(400, WIDTH)), matrices(20, 12)
    schemes = {"a": Scheme(2, 16, False), "b": Scheme(8, 64)}
    solution = solve_input_group(weights, schemes, sums, lambda channel_scale: channel_scale)
    assert {name: tensor.scheme for name, tensor in solution.tensors.items()} == schemes
    assert solution.reports["b"].loss < 1e-3 < solution.reports["a"].loss


def test_inputs_that_are_all_zero_give_a_result_and_say_so() -> None:
    solution = solved(matrices(8), Moments.empty(WIDTH))
    report = solution.reports["a"]
    assert report.dead_channels == WIDTH
    assert report.loss == report.rounding_loss == 0
    assert np.isfinite(solution.tensors["a"].dequantize()).all()
