"""Batches and rates: every row is seen once an epoch, few rows make smaller batches, rates fall towards 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from q3edge.calibration.training import trained_layer
from q3edge.calibration.training.trained_layer import BATCH_TOKENS, Parameter, batches, layer_gradients, schedule
from q3edge.reference.layer import decoder_layer
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights
from tests.helpers.calibration import outlier_model


@pytest.mark.parametrize(("rows", "length"), [(112, 512), (7, 4096), (35, 32), (1, 16)])
@pytest.mark.parametrize("at_least", [1, 28])
def test_every_row_is_seen_once_an_epoch(rows: int, length: int, at_least: int) -> None:
    found = batches(rows, length, 3, at_least=at_least)
    seen = np.concatenate(found)
    np.testing.assert_array_equal(np.sort(seen[:rows]), np.arange(rows))
    np.testing.assert_array_equal(np.bincount(seen), np.full(rows, 3))
    assert all(len(batch) * length <= max(BATCH_TOKENS, length) for batch in found)
    assert len(found) >= 3 * min(at_least, rows)


@pytest.mark.parametrize("total", [1, 2, 7, 112])
def test_the_rate_rises_then_falls_to_nothing(total: int) -> None:
    rates = [schedule(number, total) for number in range(1, total + 1)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert max(rates) <= 1
    if total == 112:
        assert max(rates) > 0.98
        assert rates[-1] < 0.01


def test_a_parameter_takes_the_first_step_of_adam() -> None:
    parameter = Parameter(torch.tensor([2.0, -4.0, 0.5]))
    parameter.step(torch.tensor([0.3, 0.3, 0.0]), 0.01, 1)
    torch.testing.assert_close(parameter.value, torch.tensor([1.98, -4.04, 0.5]))


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_gradients_of_all_pieces_are_those_of_each_added(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_layer, "_PIECE_TOKENS", 16)
    source = outlier_model(2)
    config, rotary = source.config, RotaryTables.of(source.config, 8)
    states, target = torch.randn(2, 6, 8, config.hidden_size, generator=torch.Generator().manual_seed(0))
    learned = ["q_proj", "k_norm", "down_proj", "input_layernorm"]
    by_input, found = layer_gradients(
        LayerWeights.read(source, 0), learned, (states, target), torch.sub, config, rotary, bfloat16=bfloat16
    )
    weights = LayerWeights.read(source, 0)
    leaves = [weights[name].requires_grad_() for name in learned]
    for piece in (slice(0, 2), slice(2, 4), slice(4, 6)):
        x = states[piece].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = (decoder_layer(x, weights, config, rotary) - target[piece]).square().sum() / 2
        loss.backward()
        torch.testing.assert_close(by_input[piece], x.grad)
    for name, leaf in zip(learned, leaves):
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], leaf.grad)
