"""Reconstruction: moves are those of plain straight-through training, and only what helps held-out tokens is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from q3edge.calibration.layers.layer import LayerSolver
from q3edge.calibration.layers.rounded import LayerResult, dequantize_layer
from q3edge.calibration.layers.streams import StateStream, Tokens
from q3edge.calibration.training import reconstruct, trained_layer
from q3edge.calibration.training.reconstruct import LayerTrainer
from q3edge.quantization.scheme import Scheme
from q3edge.reference.layer import decoder_layer
from q3edge.reference.model import embed, hidden_states
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights
from tests.helpers.calibration import (
    calibrate,
    linear_schemes,
    outlier_model,
    random_tokens,
    result_bytes,
    rounded_model,
)

INT4, SYMMETRIC, INT2 = Scheme(4, 32, False), Scheme(4, 32), Scheme(2, 16, False)
SEQUENCES, LENGTH, HELD_OUT = 40, 32, 5


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_layer, "BATCH_TOKENS", 4 * LENGTH)
    monkeypatch.setattr(trained_layer, "_PIECE_TOKENS", 2 * LENGTH)


class Case:
    """A random solved layer, and the streams that it is reconstructed on."""

    def __init__(self, folder: Path, scheme: Scheme = INT4, *, keep_float: tuple[str, ...] = ()) -> None:
        self.source = outlier_model(1)
        self.tokens = Tokens(SEQUENCES, LENGTH, HELD_OUT, False)
        self.rotary = RotaryTables.of(self.source.config, LENGTH)
        width = self.source.config.hidden_size
        self.before, self.target = (
            StateStream(folder / f"{name}.bin", self.tokens, width) for name in ("before", "target")
        )
        states = embed(self.source, random_tokens(SEQUENCES, LENGTH, self.source.config.vocab_size))
        self.before.write(slice(0, SEQUENCES), states)
        self.float_weights = LayerWeights.read(self.source, 0)
        output = decoder_layer(states, self.float_weights, self.source.config, self.rotary)
        self.target.write(slice(0, SEQUENCES), output)
        schemes = linear_schemes(self.source, scheme, keep_float=keep_float)
        solver = LayerSolver(self.source, 0, schemes, self.tokens, folder, lambda _: None)
        self.solved = solver.solve(self.before, StateStream(folder / "after.bin", self.tokens, width))
        self.wanted = solver.scaled_layer()

    def reconstructed(self) -> LayerResult:
        advanced: list[int] = []
        reconstructor = LayerTrainer(self.source.config, self.tokens, self.before, self.target)
        result = reconstructor.run(self.solved, lambda: self.wanted, advanced.append)
        assert sum(advanced) == reconstruct.TRAINING_STEPS
        assert len(advanced) >= reconstruct.EPOCHS * reconstruct._BATCHES
        return result

    def error(self, result: LayerResult, rows: slice = slice(SEQUENCES - HELD_OUT, SEQUENCES)) -> float:
        """Squared error of the layer's output relative to the target's square, on held-out rows."""
        weights = dequantize_layer(self.source, 0, result)
        target = self.target.read(rows)
        output = decoder_layer(self.before.read(rows), weights, self.source.config, self.rotary)
        return float((output - target).square().sum() / target.square().sum())


@pytest.mark.parametrize("scheme", [INT4, SYMMETRIC, INT2, Scheme(8, 32)], ids=Scheme.label)
def test_the_output_comes_closer_on_tokens_not_trained_on(scheme: Scheme, tmp_path: Path) -> None:
    case = Case(tmp_path, scheme)
    result = case.reconstructed()
    found = result.reconstruction
    assert found is not None
    assert found.loss_before == pytest.approx(case.error(case.solved), rel=1e-4)
    assert found.loss_after == pytest.approx(case.error(result), rel=1e-4)
    assert found.loss_after < 0.95 * found.loss_before
    assert result.reports == case.solved.reports
    moved = []
    for name, tensor in result.tensors.items():
        before = case.solved.tensors[name]
        assert tensor.scheme == scheme
        assert tensor.codes.max() <= scheme.max_code
        assert (tensor.zero_points is None) == scheme.symmetric
        if before.zero_points is not None:
            np.testing.assert_array_equal(tensor.zero_points, before.zero_points)
        moved.append(tensor.codes != before.codes)
    assert found.moved_codes == pytest.approx(np.concatenate([part.ravel() for part in moved]).mean(), rel=1e-6)
    assert 0 < found.moved_codes < 0.3


def test_matrices_that_stay_float_are_not_touched(tmp_path: Path) -> None:
    case = Case(tmp_path, keep_float=("v_proj", "gate_proj", "down_proj"))
    result = case.reconstructed()
    assert result.tensors.keys() == case.solved.tensors.keys()
    for name, values in case.solved.floats.items():
        if "_proj" in name:
            np.testing.assert_array_equal(result.floats[name], values)
    assert case.error(result) < case.error(case.solved)


def test_what_does_not_help_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct, "CODE_RATE", 5.0)
    case = Case(tmp_path)
    result = case.reconstructed()
    assert result.tensors == case.solved.tensors
    assert result.floats == case.solved.floats
    assert result.reconstruction is not None
    assert result.reconstruction.loss_after == result.reconstruction.loss_before
    assert (result.reconstruction.moved_codes, result.reconstruction.rate) == (0, 0)


def test_a_layer_that_comes_no_closer_is_tried_at_smaller_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruct, "CODE_RATE", 5.0)
    monkeypatch.setattr(reconstruct, "_SHARES", (1.0, 1e-3))
    case = Case(tmp_path)
    result = case.reconstructed()
    assert result.reconstruction is not None
    assert result.reconstruction.rate == 1e-3
    assert result.reconstruction.loss_after < result.reconstruction.loss_before
    assert case.error(result) < case.error(case.solved)


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        folder = tmp_path / str(threads)
        folder.mkdir()
        found.append(result_bytes([Case(folder).reconstructed()]))
    assert found[0] == found[1]


def test_one_move_is_that_of_plain_straight_through_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch: Adam's first step goes by the gradient's sign: CODE_RATE for weights, NORM_RATE for norms."""
    monkeypatch.setattr(reconstruct, "EPOCHS", 1)
    monkeypatch.setattr(reconstruct, "_BATCHES", 1)
    monkeypatch.setattr(trained_layer, "BATCH_TOKENS", SEQUENCES * LENGTH)
    monkeypatch.setattr(trained_layer, "_PIECE_TOKENS", 7 * LENGTH)
    monkeypatch.setattr(reconstruct, "CODE_RATE", 0.2)
    case = Case(tmp_path)
    weights = dequantize_layer(case.source, 0, case.solved)
    leaves = {field: values.clone().requires_grad_() for field, values in weights.tensors.items()}
    rows = slice(0, SEQUENCES - HELD_OUT)
    output = decoder_layer(case.before.read(rows), weights.replaced(leaves), case.source.config, case.rotary)
    loss = (output - case.target.read(rows)).square().sum()
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
    losses = iter([(2.0, 1.0), (1.0, 1.0)])  # whether so large a move helps is not the question
    monkeypatch.setattr(LayerTrainer, "_held_out", lambda *_: next(losses))
    result = case.reconstructed()
    for field, gradient in gradients.items():
        name = weights.layer.name(field)
        clear = gradient.abs() > 1e-3 * gradient.abs().max()  # elsewhere the order of a sum decides the sign
        if name not in case.solved.tensors:
            norm = torch.from_numpy(result.floats[name]) / leaves[field].detach()
            move = -reconstruct.NORM_RATE * (gradient * leaves[field].detach()).sign()
            torch.testing.assert_close((norm - 1)[clear], move[clear], rtol=2e-3, atol=2e-7)
            continue
        before = case.solved.tensors[name]
        scales = torch.from_numpy(before.scales).float().unsqueeze(-1)
        zeros = torch.from_numpy(before.zero_points).float().unsqueeze(-1)
        codes = torch.from_numpy(before.codes).float().view(*before.scales.shape, -1)
        steps = codes - zeros
        leaning = (case.wanted[field].view_as(steps) / scales - steps).clamp(-0.45, 0.45)
        moved = steps + leaning - 0.2 * (gradient.view_as(steps) * scales).sign()
        clear &= ((moved - moved.floor() - 0.5).abs() > 1e-3).view(before.shape)  # and there that of a product
        expected = torch.clamp(moved.round() + zeros, 0, before.scheme.max_code).view(before.shape)
        np.testing.assert_array_equal(result.tensors[name].codes[clear], expected.to(torch.uint8)[clear])


def test_in_layer_wise_calibration_it_brings_the_model_closer(tmp_path: Path) -> None:
    source, unseen = outlier_model(6), random_tokens(8, 32, seed=99)
    schemes, training = linear_schemes(source, Scheme(4, 64, False)), random_tokens(SEQUENCES, LENGTH)
    expected = hidden_states(source, unseen)
    errors = []
    for flag in (False, True):
        results, states = calibrate(source, schemes, training, tmp_path / str(flag), reconstruct=flag)
        assert all((result.reconstruction is not None) is flag for result in results)
        assert np.isfinite(states.numpy()).all()
        errors.append(float((hidden_states(rounded_model(source, results), unseen) - expected).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_layers_without_schemes_pass_both_streams_on(tmp_path: Path) -> None:
    source = outlier_model(3, num_hidden_layers=3)
    schemes = {name: scheme if ".layers.1." in name else None for name, scheme in linear_schemes(source, INT4).items()}
    results, _ = calibrate(source, schemes, random_tokens(SEQUENCES, LENGTH), tmp_path, reconstruct=True)
    assert [result.reconstruction is not None for result in results] == [False, True, False]
